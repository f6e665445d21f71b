"""Following a job: its events as they come, its progress beside them, until it is over."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from qcrd.cli.client import Api, Told
from qcrd.errors import QcrdError, Transient
from qcrd.records.job import JobStatus
from qcrd.runtime.jobs.state_machine import TERMINAL

LOOK_SECONDS = 1.0
"""Between two looks at a job's progress."""
RETRY_SECONDS = 2.0
LAST_EVENTS_SECONDS = 5.0
"""How long the last events of a job that is over are waited for."""


class Display(Protocol):
    def told(self, event: Told) -> None:
        """An event of the job, in order."""

    def seen(self, job: dict[str, Any]) -> None:
        """The job as it is now; called about once a second."""

    def trouble(self, text: str) -> None:
        """The gateway does not answer; said once per outage."""


def is_over(job: dict[str, Any]) -> bool:
    return JobStatus(job["status"]) in TERMINAL


def follow(api: Api, job_id: str, display: Display) -> dict[str, Any]:
    """The job when it is over. A gateway that goes away is waited for, and no event shown twice."""
    events: queue.Queue[Told | None] = queue.Queue()
    reader = threading.Thread(target=_read_events, args=(api, job_id, events), daemon=True)
    reader.start()
    stream_open, troubled = True, False
    while True:
        deadline = time.monotonic() + LOOK_SECONDS
        stream_open &= _show(events, display, deadline)
        try:
            job = api.job(job_id)
        except Transient as error:
            if not troubled:
                display.trouble(error.message)
            troubled = True
            continue
        troubled = False
        display.seen(job)
        if is_over(job):
            if stream_open:
                _show(events, display, time.monotonic() + LAST_EVENTS_SECONDS)
            return job


def _show(events: queue.Queue[Told | None], display: Display, deadline: float) -> bool:
    """Show what comes until `deadline`; False when the stream has ended."""
    while (left := deadline - time.monotonic()) > 0:
        try:
            event = events.get(timeout=left)
        except queue.Empty:
            return True
        if event is None:
            time.sleep(max(0.0, min(left, 0.05)))
            return False
        display.told(event)
    return True


def _read_events(api: Api, job_id: str, events: queue.Queue[Told | None]) -> None:
    try:
        for event in persistently(api, job_id):
            events.put(event)
    except QcrdError:
        # A key that was withdrawn, a job that is gone: `follow` asks too and is told the same.
        pass
    finally:
        events.put(None)


def persistently(api: Api, job_id: str, *, retry: float = RETRY_SECONDS) -> Iterator[Told]:
    """Every event of the job once, over as many connections as it takes."""
    last: str | None = None
    while True:
        try:
            for event in api.stream(job_id, last):
                last = event.id
                yield event
            if is_over(api.job(job_id)):
                return
        except Transient:
            # The line broke; the event after `last` comes first on the next one.
            pass
        time.sleep(retry)
