"""Another server's event stream as our own, each piece as it comes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx2
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.api.http import schemas

log = logging.getLogger(__name__)


@asynccontextmanager
async def closed(answer: httpx2.Response) -> AsyncIterator[None]:
    """Closes `answer` however this ends: to its server that is the cancel."""
    try:
        yield
    finally:
        await answer.aclose()


class Relay(StreamingResponse):
    """Notices at once that its client has left, also while there is nothing to send, and then
    closes the connection that the stream comes from."""

    def __init__(self, answer: httpx2.Response) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_pieces(answer), media_type="text/event-stream", headers=headers)
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self.stream_response(send))
        gone = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            sending.cancel()
            # A send to a client that has left; `gone` hears of it too, but may be later.
            with suppress(OSError, asyncio.CancelledError):
                await sending
            await self._answer.aclose()


async def _pieces(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """A stream that breaks off ends in an error event, since its status has been sent."""
    try:
        async for piece in answer.aiter_raw():
            yield piece
    except httpx2.TransportError as error:
        log.warning("a student's stream broke off: %s", type(error).__name__)
        told = schemas.error(
            "the server of students broke off: try again",
            type="server_error",
            code="students_unavailable",
        )
        yield f"data: {json.dumps(told)}\n\n".encode()
