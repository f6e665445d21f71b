"""Every body that is not a file: JSON, called JSON, and read strictly before a route sees it."""

from __future__ import annotations

from email.message import Message as Header

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from qcrd.errors import QcrdError
from qcrd.runtime.http.asgi import replay_body
from services.api.http import strict_json
from services.api.http.body_limits import UPLOADS, whole
from services.api.http.errors import UnsupportedType, answer

WITH_BODY = frozenset({"POST", "PATCH", "DELETE"})
"""Methods that some route has; the others are refused whatever they bring."""
UPLOAD_PATHS = frozenset(path for _, path in UPLOADS)
AT_ONCE = 64 << 10
"""Bytes of JSON that are read within a millisecond, in which nobody else is answered."""


class JsonBodies:
    """Answers what is wrong with a body; one that is right is given on as it came."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] in WITH_BODY
        # Under every method: a form that is patched there is told of the method, not of its type.
        if not asked or scope["path"] in UPLOAD_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            body = await whole(receive)
            if body:
                _said_to_be_json(Headers(scope=scope))
                await _check(body)
        except QcrdError as error:
            await answer(error)(scope, receive, send)
        else:
            await self._app(scope, replay_body(body, receive), send)


def _said_to_be_json(headers: Headers) -> None:
    header = Header()
    header["content-type"] = headers.get("content-type", "")
    kind = header.get_content_type() if header["content-type"] else "nothing"
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise UnsupportedType(f"`Content-Type` is {kind[:80]}: send the body as application/json")


async def _check(body: bytes) -> None:
    if len(body) <= AT_ONCE:
        strict_json.read(body)
    else:
        await to_thread.run_sync(strict_json.read, body)
