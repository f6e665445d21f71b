"""A MinIO server's administration as far as `bucket_setup` uses it, with buckets that stay empty.

Signatures are not checked; who asks for what is, and the bodies are encrypted as MinIO's are.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from minio.crypto import decrypt, encrypt
from urllib3 import HTTPResponse

ERROR = "<Error><Code>{}</Code><Message>no</Message><Resource>/</Resource></Error>"
LISTING = (
    '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>{}</Name>'
    "<IsTruncated>false</IsTruncated></ListBucketResult>"
)


@dataclass
class FakeMinio:
    admin: tuple[str, str]
    buckets: set[str] = field(default_factory=set)
    users: dict[str, str] = field(default_factory=dict)
    policies: dict[str, Any] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    """The policy of each user."""

    def app(self) -> FastAPI:
        app = FastAPI()
        admin = "/minio/admin/v3"
        app.put(f"{admin}/add-canned-policy")(self._add_policy)
        app.put(f"{admin}/add-user")(self._add_user)
        app.put(f"{admin}/set-user-or-group-policy")(self._set_policy)
        app.get(f"{admin}/list-users")(self._list_users)
        app.delete(f"{admin}/remove-user")(self._remove_user)
        app.api_route("/{bucket}", methods=["GET", "HEAD", "PUT"])(self._serve_bucket)
        return app

    async def _add_policy(self, request: Request, name: str) -> Response:
        if refusal := self._refuse(request):
            return refusal
        self.policies[name] = await request.json()
        return Response()

    async def _add_user(self, request: Request, accessKey: str) -> Response:
        if refusal := self._refuse(request):
            return refusal
        encrypted = HTTPResponse(io.BytesIO(await request.body()), preload_content=False)
        self.users[accessKey] = json.loads(decrypt(encrypted, self.admin[1]))["secretKey"]
        return Response()

    def _list_users(self, request: Request) -> Response:
        if refusal := self._refuse(request):
            return refusal
        users = {
            name: {"status": "enabled"}
            | ({"policyName": self.given[name]} if name in self.given else {})
            for name in self.users
        }
        return Response(encrypt(json.dumps(users).encode(), self.admin[1]))

    def _remove_user(self, request: Request, accessKey: str) -> Response:
        if refusal := self._refuse(request):
            return refusal
        del self.users[accessKey]
        self.given.pop(accessKey, None)
        return Response()

    def _set_policy(self, request: Request, policyName: str, userOrGroup: str) -> Response:
        if refusal := self._refuse(request):
            return refusal
        if policyName not in self.policies or userOrGroup not in self.users:
            return JSONResponse({"Code": "XMinioAdminNoSuchUser"}, 404)
        self.given[userOrGroup] = policyName
        return Response()

    def _refuse(self, request: Request) -> Response | None:
        if read_access_key(request) == self.admin[0]:
            return None
        return JSONResponse({"Code": "AccessDenied", "Message": "no"}, 403)

    def _serve_bucket(self, request: Request, bucket: str) -> Response:
        asker = read_access_key(request)
        is_admin = asker == self.admin[0]
        if not is_admin and not self._allows(asker, bucket, request.method):
            return Response(ERROR.format("AccessDenied"), 403)
        if request.method == "PUT":
            self.buckets.add(bucket)
        elif bucket not in self.buckets:
            return Response(ERROR.format("NoSuchBucket"), 404)
        return Response(LISTING.format(bucket), media_type="application/xml")

    def _allows(self, user: str, bucket: str, method: str) -> bool:
        action = {"PUT": "s3:CreateBucket"}.get(method, "s3:ListBucket")
        policy = self.policies.get(self.given.get(user, ""), {"Statement": []})
        return any(
            action in statement["Action"] and f"arn:aws:s3:::{bucket}" in statement["Resource"]
            for statement in policy["Statement"]
        )


def read_access_key(request: Request) -> str:
    found = re.search(r"Credential=([^/]+)/", request.headers.get("authorization", ""))
    return found[1] if found else ""
