"""Server-sent events framed as axum frames them: `data: ` + one line of JSON + an empty line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

PING = b":\n\n"
PING_SECONDS = 15.0
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
MEDIA_TYPE = "text/event-stream"
# One encoder for all events; `json.dumps` would make one for each.
_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def format_event(body: Mapping[str, Any]) -> bytes:
    return f"data: {_ENCODE(body)}\n\n".encode()


class EventStream(StreamingResponse):
    """A response that notices at once when its client leaves, also while there is nothing to send,
    and closes its events however it ends.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        self._disconnected: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._events = with_pings(events, until=self._disconnected)
        # As a header: Starlette would add a charset to a `media_type` of text, TGI has none.
        super().__init__(self._events, headers={**HEADERS, "content-type": MEDIA_TYPE, **headers})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.create_task(self._watch_disconnect(receive))
        try:
            # A send to a client that has left; `_watch_disconnect` notices too, but may be
            # later.
            with suppress(OSError):
                await self.stream_response(send)
        finally:
            watch.cancel()
            await self._events.aclose()

    async def _watch_disconnect(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._disconnected.done():
            self._disconnected.set_result(None)


async def with_pings(
    events: AsyncGenerator[bytes, None],
    seconds: float = PING_SECONDS,
    *,
    until: asyncio.Future[None] | None = None,
) -> AsyncGenerator[bytes, None]:
    """`events`, with a comment after every `seconds` of silence. Closing this closes `events`, and
    so does `until`.

    They run in a task of their own: the server cancels a response at every await of its clean-up,
    and an upstream's connection would stay open behind it.
    """
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def pump() -> None:
        async with aclosing(events):
            async for item in events:
                queue.put_nowait(item)

    task = asyncio.create_task(pump())
    task.add_done_callback(lambda _: queue.put_nowait(None))
    if until is not None:
        until.add_done_callback(lambda _: task.cancel())
    try:
        while True:
            try:
                async with asyncio.timeout(seconds):
                    items = [await queue.get()]
            except TimeoutError:
                yield PING
                continue
            # What came meanwhile goes out in one write; a busy server saves most of them.
            while not queue.empty():
                items.append(queue.get_nowait())
            if text := b"".join(item for item in items if item is not None):
                yield text
            if items[-1] is None:
                break
        if not task.cancelled():
            task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
