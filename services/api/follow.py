"""A job's events as server-sent events: oldest first, resumable, until the job is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.concurrency import run_in_threadpool

from qcrd.errors import NotFound
from qcrd.records import Event
from qcrd.runtime.events import Events
from qcrd.runtime.jobs import TERMINAL, JobStore
from services.api import wire

POLL_SECONDS = 0.5
"""Polling holds no thread while it waits, so a hundred idle followers do not block the gateway."""
COMMENT_SECONDS = 15.0
"""Proxies close a connection that is silent for a minute."""
GRACE_POLLS = 4
"""A job that is over but has no last event, because its worker died in between, is left after so
many more looks."""
BATCH = 500


async def stream(
    jobs: JobStore, events: Events, job_id: str, after: str | None
) -> AsyncIterator[str]:
    silent, polls_left = 0.0, GRACE_POLLS
    while polls_left:
        found = await run_in_threadpool(events.read, job_id, after, BATCH)
        for event in found:
            yield _framed(event)
            if event.data.get("status") in TERMINAL:
                return
            after, silent = event.id, 0.0
        if len(found) == BATCH:
            continue
        if await run_in_threadpool(_over, jobs, job_id):
            polls_left -= 1
        if silent >= COMMENT_SECONDS:
            yield ":\n\n"
            silent = 0.0
        await asyncio.sleep(POLL_SECONDS)
        silent += POLL_SECONDS


def _framed(event: Event) -> str:
    return f"id: {event.id}\ndata: {wire.event(event).model_dump_json()}\n\n"


def _over(jobs: JobStore, job_id: str) -> bool:
    try:
        return jobs.get(job_id).status in TERMINAL
    except NotFound:
        return True
