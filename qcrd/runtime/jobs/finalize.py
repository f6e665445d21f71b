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
from qcrd.runtime.jobs.state_machine import TERMINAL, with_changes
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.event_log import EventLevel, EventLog
from qcrd.runtime.redis.webhook_queue import WebhookQueue
from qcrd.runtime.storage.store import Store, write_lines, write_record

log = logging.getLogger(__name__)

FINALIZE_GRACE_SECONDS = 5.0
"""Seconds after its end for which a job is left to the one who ended it."""
ARCHIVE_PAGE = 1000
ARCHIVE_FAILED = "not archived yet: %s"


class FinalizeDeps(Protocol):
    """What of the gateway or of a worker an end is written to."""

    @property
    def jobs(self) -> JobStore: ...
    @property
    def events(self) -> EventLog: ...
    @property
    def store(self) -> Store: ...
    @property
    def webhook_queue(self) -> WebhookQueue: ...


def finalize(deps: FinalizeDeps, job: Job) -> None:
    """Tell the end of `job`, to its webhook too, and archive it under `jobs/<id>/`: spec, report,
    events.

    The event's `data.status` is the final status; it is the last one of the job. Raises `Transient`
    when Redis is away; a store that is away or full undoes nothing, and the reaper tries it again.
    """
    _emit_end(deps, job)
    try:
        _archive_and_mark(deps, job)
    except QcrdError as error:
        log.warning(ARCHIVE_FAILED, error, extra={"data": {"job_id": job.id}})


def finalize_pending(
    deps: FinalizeDeps, now: float, *, grace: float = FINALIZE_GRACE_SECONDS
) -> list[str]:
    """Conclude the jobs that ended over `grace` seconds ago and were not, and return their ids.

    Any number of processes may run it at once. `Transient` when Redis is away.
    """
    pending = [job for job in deps.jobs.iter_active() if _needs_finalizing(job, now, grace)]
    for job in pending:
        _emit_end(deps, job)
    finalized = []
    for job in pending:
        try:
            _archive_and_mark(deps, job)
            finalized.append(job.id)
        except QcrdError as error:
            log.warning(ARCHIVE_FAILED, error, extra={"data": {"job_id": job.id}})
            if isinstance(error, Transient):
                break  # a store that is away is asked once a round, not once for every job
    return finalized


def _needs_finalizing(job: Job, now: float, grace: float) -> bool:
    finished_at = job.finished_at or job.created_at
    return job.status in TERMINAL and not job.concluded and now - finished_at > grace


def _emit_end(deps: FinalizeDeps, job: Job) -> None:
    message = (
        f"The job {'was cancelled' if job.status is JobStatus.CANCELLED else job.status.value}"
    )
    if job.failure is not None:
        message += f": {job.failure.message}"
    level: EventLevel = "error" if job.status is JobStatus.FAILED else "info"
    data = {"status": job.status.value}
    deps.events.append(job.id, message, level=level, data=data, once="end")
    if job.spec.webhook is not None:
        deps.webhook_queue.add(_make_delivery(job, job.spec.webhook))


def _make_delivery(job: Job, url: str) -> WebhookDelivery:
    """Whoever makes it makes the same one."""
    return WebhookDelivery(
        id=f"evt_{keys.digest(job.id, 'end')}",
        job_id=job.id,
        url=url,
        type=f"fine_tuning.job.{job.status.value}",
        created_at=job.finished_at or job.created_at,
    )


def _archive_and_mark(deps: FinalizeDeps, job: Job) -> None:
    def mark_concluded(job: Job) -> Job:
        return job if job.concluded else with_changes(job, concluded=True)

    _write_archive(deps.events, deps.store, job)
    try:
        deps.jobs.update(job.id, mark_concluded)
    except NotFound:
        # Deleted meanwhile, and what was its own perhaps before we wrote more of it.
        deps.events.delete(job.id)
        for key in _archive_keys(job):
            deps.store.delete(key)


def _archive_keys(job: Job) -> tuple[str, ...]:
    return keys.job_spec_key(job.id), keys.job_report_key(job.id), keys.job_events_key(job.id)


def _write_archive(events: EventLog, store: Store, job: Job) -> None:
    spec_key, report_key, events_key = _archive_keys(job)
    write_record(store, spec_key, job.spec)
    if job.report is not None:
        write_record(store, report_key, job.report)
    write_lines(store, events_key, _iter_events(events, job.id))


def _iter_events(events: EventLog, job_id: str) -> Iterator[Event]:
    after = None
    while page := events.read(job_id, after, ARCHIVE_PAGE):
        yield from page
        after = page[-1].id
