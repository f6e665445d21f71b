"""Finalize a finished job: emit its last event, queue its webhook, archive it.

The process that moves a job to a final status finalizes it. If that process dies in between, or the
store is unavailable, the job stays without `concluded` and the reaper finalizes it. Every step may
be repeated, also by two processes at once.
"""

from __future__ import annotations

import logging
from typing import Protocol

from qcrd.errors import NotFound, QcrdError, Transient, UnreadableRecord
from qcrd.records.job import Job, JobStatus
from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime import keys
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.result_file import delete_result_file, write_result_file
from qcrd.runtime.jobs.state_machine import TERMINAL, with_changes
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.event_log import EventLevel, EventLog
from qcrd.runtime.redis.webhook_queue import WebhookQueue
from qcrd.runtime.storage.store import Store, write_record

log = logging.getLogger(__name__)

FINALIZE_GRACE_SECONDS = 5.0
"""Seconds for which an ended job is left to the process that ended it."""
ARCHIVE_FAILED = "job not archived, will be retried: %s"


class FinalizeDeps(Protocol):
    """The dependencies of `finalize`, which a worker and the gateway both have."""

    @property
    def jobs(self) -> JobStore: ...
    @property
    def events(self) -> EventLog: ...
    @property
    def store(self) -> Store: ...
    @property
    def webhook_queue(self) -> WebhookQueue: ...


def finalize(deps: FinalizeDeps, job: Job) -> None:
    """Emit the job's last event, queue its webhook, and archive its record, spec, report and events
    under `jobs/<id>/`.

    The event's `data.status` is the final status. Raises `Transient` when Redis is unavailable.
    When the store is unavailable or full, the reaper retries the archive.
    """
    _emit_end(deps, job)
    try:
        _archive_and_mark(deps, job)
    except QcrdError as error:
        log.warning(ARCHIVE_FAILED, error, extra={"data": {"job_id": job.id}})


def finalize_pending(
    deps: FinalizeDeps, now: float, *, grace_seconds: float = FINALIZE_GRACE_SECONDS
) -> list[str]:
    """Finalize the jobs that ended over `grace_seconds` ago and still need it; return their ids.

    `now` is the time by the jobs' clock; what ended after it ended before the clock went back. Any
    number of processes may run it at once. `Transient` when Redis is unavailable.
    """
    pending = [job for job in deps.jobs.iter_active() if _needs_finalizing(job, now, grace_seconds)]
    for job in pending:
        try:
            _emit_end(deps, job)
        except UnreadableRecord as error:  # its log alone
            log.warning(ARCHIVE_FAILED, error, extra={"data": {"job_id": job.id}})
    finalized = []
    for job in pending:
        try:
            _archive_and_mark(deps, job)
            finalized.append(job.id)
        except QcrdError as error:
            log.warning(ARCHIVE_FAILED, error, extra={"data": {"job_id": job.id}})
            if isinstance(error, Transient):
                break  # the store is unavailable: try it once a pass, not once a job
    return finalized


def _needs_finalizing(job: Job, now: float, grace_seconds: float) -> bool:
    finished_at = job.finished_at or job.created_at
    return job.status in TERMINAL and not job.concluded and abs(now - finished_at) > grace_seconds


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
    """The same delivery, with the same id, whichever process makes it."""
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
        # Before its record is there: of a deleted job nothing may be found.
        JobArchive(deps.store).save(deps.jobs.update(job.id, mark_concluded))
    except NotFound:
        # The job was deleted meanwhile, before the archive was written or between its writes.
        deps.events.delete(job.id)
        for key in deps.store.list(keys.job_prefix(job.id)):
            deps.store.delete(key)
        delete_result_file(deps.store, job.id)


def _write_archive(events: EventLog, store: Store, job: Job) -> None:
    """Write what is read of an ended job once Redis no longer has it, but its record."""
    archive = EventArchive(store)
    write_record(store, keys.job_spec_key(job.id), job.spec)
    if job.report is not None:
        write_record(store, keys.job_report_key(job.id), job.report)
    archive.add_new(job.id, events)
    if job.status is JobStatus.SUCCEEDED:
        write_result_file(store, job, archive.iter_events(job.id))
