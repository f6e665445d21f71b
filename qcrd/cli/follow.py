"""Following a job: its events as they come, its progress beside them, until it is over."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from qcrd.cli.client import GatewayClient, JobEvent
from qcrd.errors import QcrdError, Transient
from qcrd.records.job import JobStatus
from qcrd.runtime.jobs.state_machine import TERMINAL

POLL_SECONDS = 1.0
"""Between two looks at a job's progress."""
RETRY_SECONDS = 2.0
FINAL_EVENTS_SECONDS = 5.0
"""How long the last events of a job that is over are waited for."""


class JobDisplay(Protocol):
    def show_event(self, event: JobEvent) -> None:
        """An event of the job, in order."""

    def show_job(self, job: dict[str, Any]) -> None:
        """The job as it is now; called about once a second."""

    def show_outage(self, text: str) -> None:
        """The gateway does not answer; said once per outage."""


def is_finished(job: dict[str, Any]) -> bool:
    return JobStatus(job["status"]) in TERMINAL


def follow_job(api: GatewayClient, job_id: str, display: JobDisplay) -> dict[str, Any]:
    """The job when it is over. A gateway that goes away is waited for, and no event shown twice."""
    events: queue.Queue[JobEvent | None] = queue.Queue()
    reader = threading.Thread(target=_read_events, args=(api, job_id, events), daemon=True)
    reader.start()
    stream_open, outage_shown = True, False
    while True:
        deadline = time.monotonic() + POLL_SECONDS
        stream_open &= _show_events(events, display, deadline)
        try:
            job = api.get_job(job_id)
        except Transient as error:
            if not outage_shown:
                display.show_outage(error.message)
            outage_shown = True
            continue
        outage_shown = False
        display.show_job(job)
        if is_finished(job):
            if stream_open:
                _show_events(events, display, time.monotonic() + FINAL_EVENTS_SECONDS)
            return job


def _show_events(
    events: queue.Queue[JobEvent | None], display: JobDisplay, deadline: float
) -> bool:
    """Show what comes until `deadline`; False when the stream has ended."""
    while (remaining := deadline - time.monotonic()) > 0:
        try:
            event = events.get(timeout=remaining)
        except queue.Empty:
            return True
        if event is None:
            time.sleep(max(0.0, min(remaining, 0.05)))
            return False
        display.show_event(event)
    return True


def _read_events(api: GatewayClient, job_id: str, events: queue.Queue[JobEvent | None]) -> None:
    try:
        for event in stream_with_reconnect(api, job_id):
            events.put(event)
    except QcrdError:
        # A key that was withdrawn, a job that is gone: `follow` asks too and is told the same.
        pass
    finally:
        events.put(None)


def stream_with_reconnect(
    api: GatewayClient, job_id: str, *, retry: float = RETRY_SECONDS
) -> Iterator[JobEvent]:
    """Every event of the job once, over as many connections as it takes."""
    last_event_id: str | None = None
    while True:
        try:
            for event in api.stream_events(job_id, last_event_id):
                last_event_id = event.id
                yield event
            if is_finished(api.get_job(job_id)):
                return
        except Transient:
            # The line broke; the event after `last` comes first on the next one.
            pass
        time.sleep(retry)
