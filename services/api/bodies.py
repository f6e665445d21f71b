"""A request's body, read whole before a route sees it."""

from __future__ import annotations

from starlette.types import Receive

from services.api.http.errors import ClientGone


async def whole(receive: Receive) -> bytes:
    """`ClientGone` when the client hung up before its end. The body's limit is `incoming`'s."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client hung up in the middle of its request")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)
