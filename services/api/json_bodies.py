"""Every body that is not a file: JSON, called JSON, and read strictly before a route sees it."""

from __future__ import annotations

from email.message import Message as Header

from anyio import to_thread
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import QcrdError
from services.api import strict_json
from services.api.errors import ClientGone, UnsupportedType, answer
from services.api.incoming import UPLOADS

WITH_BODY = frozenset({"POST", "PUT", "PATCH", "DELETE"})
AT_ONCE = 64 << 10
"""Bytes of JSON that are read within a millisecond, in which nobody else is answered."""


class JsonBodies:
    """Answers what is wrong with a body; one that is right is given on as it came."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = scope["type"] == "http" and scope["method"] in WITH_BODY
        if not asked or (scope["method"], scope["path"]) in UPLOADS:
            await self._app(scope, receive, send)
            return
        try:
            body = await _whole(receive)
            if body:
                _said_to_be_json(Headers(scope=scope))
                await _check(body)
        except QcrdError as error:
            await answer(error)(scope, receive, send)
        else:
            await self._app(scope, _again(body, receive), send)


async def _whole(receive: Receive) -> bytes:
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client hung up in the middle of its request")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


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


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that brings the body once more, and then what comes after it."""
    left = [body]

    async def replay() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return replay
