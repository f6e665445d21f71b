"""Forwards the student server's event stream, piece by piece."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx2
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from qcrd.runtime.http.error_body import build_error_body

log = logging.getLogger(__name__)


@asynccontextmanager
async def close_on_exit(response: httpx2.Response) -> AsyncIterator[None]:
    """Close `response` however the block ends, which cancels it at its server."""
    try:
        yield
    finally:
        await response.aclose()


class ProxiedEventStream(StreamingResponse):
    """A response that notices at once when its client leaves, also while there is nothing to send,
    and then closes the connection that the stream comes from."""

    def __init__(self, upstream_response: httpx2.Response) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(
            _iter_chunks(upstream_response), media_type="text/event-stream", headers=headers
        )
        self._upstream_response = upstream_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send_task = asyncio.ensure_future(self.stream_response(send))
        disconnected = asyncio.ensure_future(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({send_task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            disconnected.cancel()
            send_task.cancel()
            # A send to a client that has left; `disconnected` notices too, but may be later.
            with suppress(OSError, asyncio.CancelledError):
                await send_task
            await self._upstream_response.aclose()


async def _iter_chunks(response: httpx2.Response) -> AsyncIterator[bytes]:
    """A stream that breaks off ends in an error event, since its status has been sent."""
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except httpx2.TransportError as error:
        log.warning("stream from the student server was interrupted: %s", type(error).__name__)
        error_body = build_error_body(
            "the server of students broke off: try again",
            type="server_error",
            code="students_unavailable",
        )
        yield f"data: {json.dumps(error_body)}\n\n".encode()
