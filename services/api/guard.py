"""What stands before the routes besides `admission`: the limit of a body's size."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.errors import TooLarge, answer

JSON_BYTES = 4 << 20
"""A job's spec with a hundred worked examples stays below 1 MiB."""
MULTIPART_BYTES = 64 << 10
"""Boundaries, headers and the form's other fields around an uploaded file."""


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
