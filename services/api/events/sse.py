"""A job's events as server-sent events: oldest first, resumable, until the job is over.

First the history from where the client is, then what the hub hands on. An event that comes by both
ways is told once, because ids grow; one that was pushed out of a full box is in the history.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends, Request

from qcrd.errors import Transient
from qcrd.records.job import Event
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.redis.event_log import BEFORE_FIRST_EVENT, format_event_id, parse_event_id
from services.api.events.broadcaster import AWAY_SECONDS, PAGE, Follower, Frame, Hub
from services.api.http import serializers

COMMENT_SECONDS = 15.0
"""Proxies close a connection that is silent for a minute."""
COMMENT = b":\n\n"


def _hub(request: Request) -> Hub:
    return cast(Hub, request.app.state.hub)


Followed = Annotated[Hub, Depends(_hub)]


def begin(after: str | None, last_event_id: str | None) -> str:
    """The event to go on after; `Invalid`, by its name, if it is none. The header goes first: a
    browser that reconnects sends it to the address that it was first given."""
    if last_event_id:
        return format_event_id(*parse_event_id(last_event_id, "Last-Event-ID"))
    return format_event_id(*parse_event_id(after)) if after else BEFORE_FIRST_EVENT


def framed(event: Event) -> Frame:
    text = f"id: {event.id}\ndata: {serializers.event(event).model_dump_json()}\n\n"
    return Frame(event.id, text.encode(), event.data.get("status") in TERMINAL)


async def stream(
    hub: Hub, job_id: str, after: str, *, concluded: bool = False
) -> AsyncIterator[bytes]:
    """`after` as `begin` made it. Of a job that was concluded before, the rest of its history is
    all that there is: whoever comes back after its last event, as browsers do, waits for none."""
    follower, told = Follower(job_id, after), time.monotonic()
    try:
        while not follower.over:
            silent = time.monotonic() - told
            if silent >= COMMENT_SECONDS:
                yield COMMENT
                silent, told = 0.0, time.monotonic()
            for frame in await _next(hub, follower, COMMENT_SECONDS - silent, concluded):
                if frame.id > follower.cursor:
                    follower.cursor, told = frame.id, time.monotonic()
                    yield frame.body
                if frame.last:
                    return
    finally:
        hub.leave(follower)


async def _next(hub: Hub, follower: Follower, seconds: float, concluded: bool) -> list[Frame]:
    """What follows on the follower's cursor; nothing when nothing came in time."""
    if not follower.behind:
        return await follower.take(seconds)
    # Before it is read: a box that fills up meanwhile says so again.
    follower.behind = False
    try:
        frames = await hub.history(follower)
    except Transient:
        follower.behind = True
        await asyncio.sleep(AWAY_SECONDS)
        return []
    if len(frames) == PAGE:
        follower.behind = True
    elif concluded:
        follower.end()
    elif not follower.joined:
        hub.join(follower, frames[-1].id if frames else follower.cursor)
        follower.behind = True
    return frames
