"""A server that answers as AWS's STS, as an instance's metadata and as a store that refuses.

STS: https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRoleWithWebIdentity.html
IMDSv2: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ROLES_PATH = "/latest/meta-data/iam/security-credentials/"
STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
ROLE, METADATA_TOKEN = "trainer-role", "metadata-token"
TOKEN_HEADER = "X-aws-ec2-metadata-token"


@dataclass
class Aws:
    """`valid_seconds` of what is issued; `web_identity` is the one that STS accepts."""

    url: str = ""
    valid_seconds: float = 3600.0
    web_identity: str = "jwt-of-the-pod"
    refusal: tuple[int, str, str] = (403, "application/xml", "AccessDenied")
    issued: int = 0
    requests: list[str] = field(default_factory=list)

    def issue(self) -> dict[str, str]:
        """Other credentials each time."""
        self.issued += 1
        expiration = datetime.now(UTC) + timedelta(seconds=self.valid_seconds)
        return {
            "AccessKeyId": f"ASIA{self.issued}",
            "SecretAccessKey": "issued-secret",
            "Token": f"session-{self.issued}",
            "Expiration": expiration.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _render_sts_reply(issued: dict[str, str], role: str) -> str:
    return f"""<AssumeRoleWithWebIdentityResponse xmlns="{STS_NAMESPACE}">
  <AssumeRoleWithWebIdentityResult>
    <SubjectFromWebIdentityToken>system:serviceaccount:qcrd:trainer</SubjectFromWebIdentityToken>
    <Audience>sts.amazonaws.com</Audience>
    <AssumedRoleUser><Arn>{role}</Arn><AssumedRoleId>AROA:qcrd</AssumedRoleId></AssumedRoleUser>
    <Credentials>
      <SessionToken>{issued["Token"]}</SessionToken>
      <SecretAccessKey>{issued["SecretAccessKey"]}</SecretAccessKey>
      <Expiration>{issued["Expiration"]}</Expiration>
      <AccessKeyId>{issued["AccessKeyId"]}</AccessKeyId>
    </Credentials>
    <Provider>arn:aws:iam::1:oidc-provider/oidc.eks.amazonaws.com</Provider>
  </AssumeRoleWithWebIdentityResult>
  <ResponseMetadata><RequestId>ad4156e9</RequestId></ResponseMetadata>
</AssumeRoleWithWebIdentityResponse>"""


def _render_sts_error(code: str, message: str) -> str:
    return f"""<ErrorResponse xmlns="{STS_NAMESPACE}">
  <Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>
  <RequestId>ad4156e9</RequestId>
</ErrorResponse>"""


def _make_handler(aws: Aws) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            if urlsplit(self.path).path != "/latest/api/token":
                return self._refuse()
            if "X-aws-ec2-metadata-token-ttl-seconds" not in self.headers:
                return self._reply(400, "text/plain", "Bad Request")
            self._reply(200, "text/plain", METADATA_TOKEN)

        def do_GET(self) -> None:
            if not self.path.startswith(ROLES_PATH):
                return self._refuse()
            if self.headers.get(TOKEN_HEADER) != METADATA_TOKEN:
                return self._reply(401, "text/html", "401 - Unauthorized")
            if self.path == ROLES_PATH:
                return self._reply(200, "text/plain", ROLE)
            if self.path != ROLES_PATH + ROLE:
                return self._reply(404, "text/html", "404 - Not Found")
            body = {"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-11-28T06:00:00Z"}
            self._reply(200, "text/plain", json.dumps({**body, **aws.issue()}))

        def do_POST(self) -> None:
            asked = {
                name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()
            }
            if asked.get("Action") != "AssumeRoleWithWebIdentity":
                return self._refuse()
            if {"Version", "RoleArn", "RoleSessionName"} - set(asked):
                return self._reply(400, "text/xml", _render_sts_error("ValidationError", "missing"))
            if asked["WebIdentityToken"] != aws.web_identity:
                error = _render_sts_error("ExpiredTokenException", "Token expired")
                return self._reply(400, "text/xml", error)
            self._reply(200, "text/xml", _render_sts_reply(aws.issue(), asked["RoleArn"]))

        def do_HEAD(self) -> None:
            status, kind, _ = aws.refusal
            self._reply(200 if status != 403 else 403, kind, "")

        def _refuse(self) -> None:
            """What a store says that accepts nothing."""
            status, kind, code = aws.refusal
            error = (
                f"<Error><Code>{code}</Code><Message>no</Message><Resource>/a</Resource></Error>"
            )
            self._reply(status, kind, error if kind == "application/xml" else code)

        def _reply(self, status: int, kind: str, body: str) -> None:
            aws.requests.append(f"{self.command} {self.path}")
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def serve_aws() -> Iterator[Aws]:
    aws = Aws()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(aws))
    aws.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield aws
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
