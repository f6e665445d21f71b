"""Re-enqueue jobs whose lease expired or whose queue message was lost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from qcrd.errors import Conflict, NotFound, UnreadableRecord
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.state_machine import (
    LATEST_START_SECONDS,
    REVOKED,
    STAGE_TASKS,
    get_task,
    is_lease_revoked,
    is_waiting,
    revoke_lease,
    with_changes,
)
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.event_log import EventLog

SILENT_HEARTBEATS = 2.5
"""Heartbeats for which a lease is seen unchanged before the clock is believed that it has expired.
A living worker's is for one. A late look counts for one more, and leaves half of one to a worker
that was held still together with the reaper."""

RESEND_SECONDS = 300.0
"""Seconds after which an unclaimed job's message is sent again. If the first one is still queued,
the claim makes the duplicate harmless."""


@dataclass(frozen=True, slots=True)
class ReapedJob:
    """A job that was re-enqueued; `reason` is for the log."""

    job_id: str
    reason: str


class HeldLease(NamedTuple):
    """A lease between two renewals: each changes `until`. The last one gave it `seconds`."""

    job_id: str
    token: int
    until: float
    seconds: float = 0.0


class LeaseWatch:
    """Tells which leases have expired, from how long it has seen each of them unchanged.

    The store's clock alone does not tell: after it was set forward every lease is past its end, and
    after it was set back none is for as long. `clock` is this process's own, in seconds, and is
    never set. A look that comes late counts for one heartbeat: whatever held the reaper still, such
    as the end of the machine's sleep, may have held the workers still too.
    """

    def __init__(
        self, *, heartbeat: float, ttl: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._heartbeat = heartbeat
        self._ttl = ttl
        self._clock = clock
        self._looked_at = clock()
        self._unchanged: dict[HeldLease, float] = {}

    def look(self, held: Iterable[Job], now: float) -> frozenset[HeldLease]:
        """The expired leases of the `held` jobs; `now` is the time by the store's clock."""
        at = self._clock()
        elapsed = min(at - self._looked_at, self._heartbeat)
        self._looked_at = at
        leases = {make_held_lease(job) for job in held if job.lease.until > REVOKED}
        self._unchanged = {
            lease: self._unchanged[lease] + elapsed if lease in self._unchanged else 0.0
            for lease in leases
        }
        return frozenset(
            lease
            for lease, seconds in self._unchanged.items()
            if has_expired(lease, seconds, now, heartbeat=self._heartbeat, ttl=self._ttl)
        )


def make_held_lease(job: Job) -> HeldLease:
    lease = job.lease
    return HeldLease(job.id, lease.token, lease.until, max(0.0, lease.until - lease.counted))


def has_expired(
    lease: HeldLease, unchanged: float, now: float, *, heartbeat: float, ttl: float
) -> bool:
    """Whether a lease that was seen `unchanged` for so many seconds has expired at `now`: by the
    clock and by its worker's silence, or by a silence as long as the lease, which is longer than
    `ttl` while a training waits for its place in a cluster."""
    silent = unchanged >= SILENT_HEARTBEATS * heartbeat
    return unchanged >= max(ttl, lease.seconds) or (silent and lease.until <= now)


def list_held(jobs: JobStore) -> list[Job]:
    """The jobs that a worker of any task holds."""
    return [job for task in sorted(set(STAGE_TASKS.values())) for job in jobs.list_held(task)]


def reap_jobs(
    jobs: JobStore,
    queue: JobQueue,
    now: float,
    *,
    expired: Collection[HeldLease] = (),
    resend_after: float = RESEND_SECONDS,
) -> list[ReapedJob]:
    """Re-enqueue overdue jobs and return them. Any number of reapers may run at once. `now` is the
    time by the jobs' clock.

    A job with one of the `expired` leases loses it and is sent at once; the next claim counts the
    lost attempt. A job that only waits is not sent again while its queue has a message for every
    claimable job: with the workers away for days the queue would grow without end.
    """
    reaped: list[ReapedJob] = []
    claimable: Counter[str] = Counter()
    overdue: list[Job] = []
    for job in jobs.iter_active():
        if _is_claimable(job, expired):
            claimable[get_task(job)] += 1
            if _is_overdue(job, now, expired, resend_after):
                overdue.append(job)
    stages = {get_task(job): job.stage or Stage.ASSEMBLING for job in overdue}
    queued = {task: queue.count_messages(stage) for task, stage in stages.items()}
    for job in overdue:
        task = get_task(job)
        # The message of an expired lease is new: nothing has been sent since its worker took the
        # job.
        if make_held_lease(job) not in expired and queued[task] >= claimable[task]:
            continue
        if _claim_resend(jobs, job.id, now, expired, resend_after):
            queue.send(stages[task], job.id)
            queued[task] += 1
            reaped.append(ReapedJob(job.id, _describe_delay(job, now)))
    return reaped


def alarm_unreadable(jobs: JobStore, events: EventLog) -> dict[str, str]:
    """Say in the log of each job that cannot be read why, once; the reasons by job id.

    The job is left for a release that can read it, such as one that runs beside this one.
    """
    unreadable = jobs.list_unreadable()
    for job_id, reason in unreadable.items():
        # Its log may be damaged too, and the others' are not.
        with suppress(UnreadableRecord):
            events.append(job_id, f"set aside: {reason}", level="error", once="unreadable")
    return unreadable


def _is_claimable(job: Job, expired: Collection[HeldLease]) -> bool:
    return is_waiting(job) or (
        job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
        and (is_lease_revoked(job) or make_held_lease(job) in expired)
    )


def _is_overdue(job: Job, now: float, expired: Collection[HeldLease], resend_after: float) -> bool:
    if not _is_claimable(job, expired):
        return False
    waited = now - _due_at(job)
    clock_went_back = not job.backoffs and waited < -LATEST_START_SECONDS
    return make_held_lease(job) in expired or waited > resend_after or clock_went_back


def _due_at(job: Job) -> float:
    """When the job's last message was sent or is due, in seconds since the epoch."""
    return job.created_at if job.sent_at is None else job.sent_at


def _describe_delay(job: Job, now: float) -> str:
    """Why the job is overdue."""
    if job.lease.owner and not is_lease_revoked(job):
        return f"its worker {job.lease.owner} has not renewed its lease"
    return f"no worker claimed it within {now - _due_at(job):.0f} s of its message"


def _claim_resend(
    jobs: JobStore, job_id: str, now: float, expired: Collection[HeldLease], resend_after: float
) -> bool:
    """Record the resend, and the end of an expired lease; False when another reaper did so first,
    or when the lease was renewed."""

    def change(job: Job) -> Job:
        if not _is_overdue(job, now, expired, resend_after):
            raise Conflict(f"job {job.id} is not overdue")
        freed = revoke_lease(job) if make_held_lease(job) in expired else job
        return with_changes(freed, sent_at=now)

    try:
        jobs.update(job_id, change)
    except (Conflict, NotFound, UnreadableRecord):
        return False
    return True
