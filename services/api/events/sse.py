"""A job's events as server-sent events: oldest first, resumable, until the job is over.

First the history from the client's cursor, then the broadcaster's frames. An event that arrives
both ways is sent once, because ids grow; one that a full buffer dropped is read from the history.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator

from qcrd.errors import Transient
from qcrd.records.job import Event
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.redis.event_log import BEFORE_FIRST_EVENT, format_event_id, parse_event_id
from services.api.events.broadcaster import (
    HISTORY_PAGE_SIZE,
    REDIS_RETRY_SECONDS,
    EventBroadcaster,
    ServerSentEvent,
    Subscriber,
)
from services.api.http import serializers

KEEPALIVE_SECONDS = 15.0
"""Proxies close a connection that is silent for a minute."""
KEEPALIVE_COMMENT = b":\n\n"


def resolve_cursor(after: str | None, last_event_id: str | None) -> str:
    """The event id to continue after; `Invalid`, naming the field, if it is none. The header goes
    first: a browser that reconnects sends it to the address that it was first given."""
    if last_event_id:
        return format_event_id(*parse_event_id(last_event_id, "Last-Event-ID"))
    return format_event_id(*parse_event_id(after)) if after else BEFORE_FIRST_EVENT


def encode_event(event: Event) -> ServerSentEvent:
    text = f"id: {event.id}\ndata: {serializers.serialize_event(event).model_dump_json()}\n\n"
    # Compared one by one: an event of another release may have a list there.
    is_final = any(event.data.get("status") == status for status in TERMINAL)
    return ServerSentEvent(event.id, text.encode(), is_final)


async def stream_events(
    broadcaster: EventBroadcaster,
    job_id: str,
    after: str,
    *,
    concluded: bool = False,
    keepalive_seconds: float = KEEPALIVE_SECONDS,
) -> AsyncGenerator[bytes]:
    """Frames after `after`, as `resolve_cursor` returned it. Of a job concluded before, only
    the rest of its history: a browser that reconnects after its last event waits for none."""
    subscriber, last_sent_at = Subscriber(job_id, after), time.monotonic()
    try:
        while not subscriber.is_closed:
            idle_seconds = time.monotonic() - last_sent_at
            if idle_seconds >= keepalive_seconds:
                yield KEEPALIVE_COMMENT
                idle_seconds, last_sent_at = 0.0, time.monotonic()
            for frame in await _get_next_events(
                broadcaster, subscriber, keepalive_seconds - idle_seconds, concluded
            ):
                if frame.id > subscriber.cursor:
                    subscriber.cursor, last_sent_at = frame.id, time.monotonic()
                    yield frame.encoded
                if frame.is_final:
                    return
    finally:
        broadcaster.unsubscribe(subscriber)


async def _get_next_events(
    broadcaster: EventBroadcaster, subscriber: Subscriber, seconds: float, concluded: bool
) -> list[ServerSentEvent]:
    """The frames after the follower's cursor; none when none came in time."""
    if not subscriber.is_lagging:
        return await subscriber.receive(seconds)
    # Before the read: a buffer that overflows meanwhile sets it again.
    subscriber.is_lagging = False
    try:
        frames = await broadcaster.read_history(subscriber)
    except Transient:
        subscriber.is_lagging = True
        await asyncio.sleep(REDIS_RETRY_SECONDS)
        return []
    if len(frames) == HISTORY_PAGE_SIZE:
        subscriber.is_lagging = True
    elif concluded:
        subscriber.close()
    elif not subscriber.is_subscribed:
        broadcaster.subscribe(subscriber, frames[-1].id if frames else subscriber.cursor)
        subscriber.is_lagging = True
    return frames
