"""Server-sent events framed as axum frames them: `data: ` + one line of JSON + an empty line."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

PING = b":\n\n"
PING_SECONDS = 15.0
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
MEDIA_TYPE = "text/event-stream"


def event(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


class EventStream(StreamingResponse):
    """Closes its events however it ends; a client that has left would leave them to the garbage
    collector, and the engine at work until then.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], headers: Mapping[str, str]) -> None:
        super().__init__(events, media_type=MEDIA_TYPE, headers={**HEADERS, **headers})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def with_pings(
    events: AsyncGenerator[bytes, None], seconds: float = PING_SECONDS
) -> AsyncGenerator[bytes, None]:
    """`events`, with a comment after every `seconds` of silence. Closing this closes `events`.

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
    try:
        while True:
            try:
                item = await asyncio.wait_for(queue.get(), seconds)
            except TimeoutError:
                yield PING
                continue
            if item is None:
                break
            yield item
        task.result()
    finally:
        task.cancel()
        await asyncio.wait({task})
