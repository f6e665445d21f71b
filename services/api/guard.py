"""What stands before the routes: the key check and the size limit, both before a body is read."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import Unauthorized
from services.api.errors import TooLarge, answer

JSON_BYTES = 4 << 20
"""A job's spec with a hundred worked examples stays below 1 MiB."""
MULTIPART_BYTES = 64 << 10
"""Boundaries, headers and the form's other fields around an uploaded file."""


class KeyCheck:
    """Asks for one of `keys` under `/v1`. Without any key nothing is asked for."""

    def __init__(self, app: ASGIApp, *, keys: Sequence[SecretStr]) -> None:
        self._app = app
        self._digests = tuple(_digest(key.get_secret_value()) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] == "http" and scope["path"].startswith("/v1/")
        if guarded and self._digests and not self._known(Headers(scope=scope)):
            error = Unauthorized("no valid API key: send it as `Authorization: Bearer <key>`")
            await answer(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, headers: Headers) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip())
        # Every digest is compared, each in constant time: timing tells nothing about any key.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class BodyLimit:
    """Refuses a body beyond the limit by its declared length, or when it has grown beyond it."""

    def __init__(self, app: ASGIApp, *, file_bytes: int) -> None:
        self._app = app
        self._file_bytes = file_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = scope["path"] == "/v1/files"
        limit = self._file_bytes + MULTIPART_BYTES if upload else JSON_BYTES
        refusal = f"the body is larger than {self._file_bytes if upload else JSON_BYTES} bytes"
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            await answer(TooLarge(refusal))(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, refusal)
            return message

        await self._app(scope, counted, send)
