"""Follow a job: show its events and progress until it has finished."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from qcrd.client.gateway import GatewayClient, JobEvent
from qcrd.errors import QcrdError, Transient
from qcrd.records.job import JobStatus
from qcrd.runtime.jobs.state_machine import TERMINAL

FINAL_EVENTS_SECONDS = 5.0
"""How long to wait for the last events of a finished job."""


class JobDisplay(Protocol):
    def show_event(self, event: JobEvent) -> None:
        """Show an event of the job; called in order."""

    def show_job(self, job: dict[str, Any]) -> None:
        """Show the job's current state; called about once a second."""

    def show_outage(self, text: str) -> None:
        """Show that the gateway is unreachable; called once per outage."""


def is_finished(job: dict[str, Any]) -> bool:
    return JobStatus(job["status"]) in TERMINAL


def follow_job(api: GatewayClient, job_id: str, display: JobDisplay) -> dict[str, Any]:
    """Return the finished job. Retries while the gateway is down and shows no event twice."""
    events: queue.Queue[JobEvent | None] = queue.Queue()
    reader = threading.Thread(target=_read_events, args=(api, job_id, events), daemon=True)
    reader.start()
    states = poll_through_outages(lambda: api.get_job(job_id), display.show_outage)
    stream_open = True
    while True:
        deadline = time.monotonic() + api.intervals.poll_job
        stream_open &= _show_events(events, display, deadline)
        job = next(states)
        if job is None:
            continue
        display.show_job(job)
        if is_finished(job):
            if stream_open:
                _show_events(events, display, time.monotonic() + FINAL_EVENTS_SECONDS)
            return job


def poll_through_outages(
    fetch: Callable[[], dict[str, Any]], show_outage: Callable[[str], None]
) -> Iterator[dict[str, Any] | None]:
    """What `fetch` returns, each time it is asked for; None while the gateway is unreachable, which
    is shown once per outage."""
    outage_shown = False
    while True:
        try:
            state = fetch()
        except Transient as error:
            if not outage_shown:
                show_outage(error.message)
            outage_shown = True
            yield None
        else:
            outage_shown = False
            yield state


def _show_events(
    events: queue.Queue[JobEvent | None], display: JobDisplay, deadline: float
) -> bool:
    """Show the events until `deadline`; False when the stream has ended."""
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
        # A revoked key or a deleted job: `follow_job` gets the same error and raises it.
        pass
    finally:
        events.put(None)


def stream_with_reconnect(api: GatewayClient, job_id: str) -> Iterator[JobEvent]:
    """Every event of the job once, reconnecting as needed."""
    last_event_id: str | None = None
    while True:
        try:
            for event in api.stream_events(job_id, last_event_id):
                last_event_id = event.id
                yield event
            if is_finished(api.get_job(job_id)):
                return
        except Transient:
            # The connection broke; the next one continues after `last_event_id`.
            pass
        time.sleep(api.intervals.reconnect)
