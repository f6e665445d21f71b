"""The end of a job: told once, archived, and only then is the job left alone.

Whoever moves a job to a final state concludes it. A process that dies in between leaves a job that
is over and not `concluded`, which the reaper concludes; so it does when the store was away. Every
step may be done twice, by two at once too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Protocol

from qcrd.errors import NotFound, QcrdError, Transient
from qcrd.records.job import Event, Job, JobStatus
from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime import keys
from qcrd.runtime.jobs.reaper import active
from qcrd.runtime.jobs.state_machine import TERMINAL, changed
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.event_log import Events, Level
from qcrd.runtime.redis.webhook_queue import Deliveries
from qcrd.runtime.storage.store import Store, write_lines, write_record

log = logging.getLogger(__name__)

GRACE = 5.0
"""Seconds after its end for which a job is left to the one who ended it."""
ARCHIVE_PAGE = 1000
NOT_YET = "not archived yet: %s"


class Ports(Protocol):
    """What of the gateway or of a worker an end is written to."""

    @property
    def jobs(self) -> JobStore: ...
    @property
    def events(self) -> Events: ...
    @property
    def store(self) -> Store: ...
    @property
    def deliveries(self) -> Deliveries: ...


def conclude(ports: Ports, job: Job) -> None:
    """Tell the end of `job`, to its webhook too, and archive it under `jobs/<id>/`: spec, report,
    events.

    The event's `data.status` is the final status; it is the last one of the job. Raises `Transient`
    when Redis is away; a store that is away or full undoes nothing, and the reaper tries it again.
    """
    _tell(ports, job)
    try:
        _close(ports, job)
    except QcrdError as error:
        log.warning(NOT_YET, error, extra={"data": {"job_id": job.id}})


def conclude_left(ports: Ports, now: float, *, grace: float = GRACE) -> list[str]:
    """Conclude the jobs that ended over `grace` seconds ago and were not, and return their ids.

    Any number of processes may run it at once. `Transient` when Redis is away.
    """
    left = [job for job in active(ports.jobs) if _left(job, now, grace)]
    for job in left:
        _tell(ports, job)
    concluded = []
    for job in left:
        try:
            _close(ports, job)
            concluded.append(job.id)
        except QcrdError as error:
            log.warning(NOT_YET, error, extra={"data": {"job_id": job.id}})
            if isinstance(error, Transient):
                break  # a store that is away is asked once a round, not once for every job
    return concluded


def _left(job: Job, now: float, grace: float) -> bool:
    ended = job.finished_at or job.created_at
    return job.status in TERMINAL and not job.concluded and now - ended > grace


def _tell(ports: Ports, job: Job) -> None:
    message = (
        f"The job {'was cancelled' if job.status is JobStatus.CANCELLED else job.status.value}"
    )
    if job.failure is not None:
        message += f": {job.failure.message}"
    level: Level = "error" if job.status is JobStatus.FAILED else "info"
    data = {"status": job.status.value}
    ports.events.append(job.id, message, level=level, data=data, once="end")
    if job.spec.webhook is not None:
        ports.deliveries.add(_delivery(job, job.spec.webhook))


def _delivery(job: Job, url: str) -> WebhookDelivery:
    """Whoever makes it makes the same one."""
    return WebhookDelivery(
        id=f"evt_{keys.digest(job.id, 'end')}",
        job_id=job.id,
        url=url,
        type=f"fine_tuning.job.{job.status.value}",
        created_at=job.finished_at or job.created_at,
    )


def _close(ports: Ports, job: Job) -> None:
    def close(job: Job) -> Job:
        return job if job.concluded else changed(job, concluded=True)

    _archive(ports.events, ports.store, job)
    try:
        ports.jobs.update(job.id, close)
    except NotFound:
        # Deleted meanwhile, and what was its own perhaps before we wrote more of it.
        ports.events.delete(job.id)
        for key in _archived(job):
            ports.store.delete(key)


def _archived(job: Job) -> tuple[str, ...]:
    return keys.job_spec_key(job.id), keys.job_report_key(job.id), keys.job_events_key(job.id)


def _archive(events: Events, store: Store, job: Job) -> None:
    spec_key, report_key, events_key = _archived(job)
    write_record(store, spec_key, job.spec)
    if job.report is not None:
        write_record(store, report_key, job.report)
    write_lines(store, events_key, _history(events, job.id))


def _history(events: Events, job_id: str) -> Iterator[Event]:
    after = None
    while page := events.read(job_id, after, ARCHIVE_PAGE):
        yield from page
        after = page[-1].id
