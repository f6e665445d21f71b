"""JSON middleware: checks the media type and syntax of every request body but uploads."""

from __future__ import annotations

from email.message import Message as Header

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qcrd.errors import QcrdError
from qcrd.runtime.http.asgi import replay_body
from qcrd.runtime.http.error_responses import build_error_response
from services.api.http import strict_json
from services.api.http.body_limits import UPLOAD_ROUTES, read_body
from services.api.http.errors import UnsupportedMediaType

BODY_METHODS = frozenset({"POST", "PATCH", "DELETE"})
"""Methods that some route has; others are refused, whatever their body."""
UPLOAD_PATHS = frozenset(path for _, path in UPLOAD_ROUTES)
MAX_INLINE_PARSE_BYTES = 64 << 10
"""Bytes of JSON that are parsed within a millisecond, for which the event loop may block."""


class JsonMiddleware:
    """Refuses an invalid body; forwards a valid one unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        may_have_body = scope["type"] == "http" and scope["method"] in BODY_METHODS
        # Under every method: a form sent there by PATCH gets the method error, not the type error.
        if not may_have_body or scope["path"] in UPLOAD_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            body = await read_body(receive)
            if body:
                _check_content_type(Headers(scope=scope))
                await _check_json(body)
        except QcrdError as error:
            await build_error_response(error)(scope, receive, send)
        else:
            await self._app(scope, replay_body(body, receive), send)


def _check_content_type(headers: Headers) -> None:
    header = Header()
    header["content-type"] = headers.get("content-type", "")
    media_type = header.get_content_type() if header["content-type"] else "nothing"
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaType(
            f"`Content-Type` is {media_type[:80]}: send the body as application/json"
        )


async def _check_json(body: bytes) -> None:
    if len(body) <= MAX_INLINE_PARSE_BYTES:
        strict_json.parse_json(body)
    else:
        await to_thread.run_sync(strict_json.parse_json, body)
