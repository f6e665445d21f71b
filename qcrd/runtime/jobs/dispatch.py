"""Choose which waiting job a worker claims, and queue messages for waiting jobs.

A message only says that there is work on its queue. The worker that receives it claims the first
waiting job of that queue, so priorities hold whatever the order of the messages.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator

from qcrd.errors import Conflict, NotFound, UnreadableRecord
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs import commands as jobs
from qcrd.runtime.jobs.queue import JobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.state_machine import STAGE_TASKS, is_due, is_lease_revoked
from qcrd.runtime.jobs.store import JobStore

PAGE_SIZE = 20
"""Waiting jobs read at once; nearly always the first one is claimed."""


def claim_next_job(deps: WorkerDeps, job_id: str, stage: Stage) -> Job | None:
    """Claim the first waiting job whose owner is below its limit of running jobs, if any."""
    owners_at_limit: set[str] = set()
    for candidate in _iter_candidates(deps, job_id, stage):
        if candidate.owner in owners_at_limit:
            continue
        lease_owner = f"{deps.owner}:{secrets.token_hex(4)}"
        try:
            job = jobs.claim_job(
                deps.jobs, candidate.id, lease_owner, stage=stage, now=deps.jobs.now(), ttl=deps.ttl
            )
        except Conflict:
            owners_at_limit.add(candidate.owner)
            continue
        if job is not None:
            if job.attempt > candidate.attempt:
                deps.counters.increment("attempts_lost")  # the previous worker's lease was revoked
            return job
    return None


def _iter_candidates(deps: WorkerDeps, job_id: str, stage: Stage) -> Iterator[Job]:
    """The jobs that a message for `job_id` may be used for, the preferred one first.

    A job with a revoked lease is in no queue index, so only its own message can revive it.
    """
    try:
        requested = deps.jobs.get(job_id)
    except (NotFound, UnreadableRecord):
        requested = None
    if requested is not None and is_lease_revoked(requested):
        yield requested
    yield from _iter_due(deps.jobs, stage)
    if requested is not None:
        yield requested


def _iter_due(job_store: JobStore, stage: Stage) -> Iterator[Job]:
    """The jobs that wait for `stage`'s task and are not backing off, the next one first."""
    start, now = 0, job_store.now()
    while page := job_store.list_waiting(STAGE_TASKS[stage], PAGE_SIZE, start=start):
        yield from (job for job in page if is_due(job, now))
        start += len(page)


def wake_next_job(job_store: JobStore, queue: JobQueue, ended: Job) -> None:
    """Queue a message for the next waiting job, as `ended` no longer counts towards its owner's
    limit: messages that arrived at the limit were used up. Call it whenever a job stops running.

    A requeued job wakes no job that waits for another one: two such jobs would wake each other
    without end.
    """
    if ended.running_limit is None:
        return
    requeued = ended.status is JobStatus.QUEUED
    for job in _iter_due(job_store, Stage.ASSEMBLING):
        if job.id != ended.id and not (requeued and job.waiting):
            queue.send(Stage.ASSEMBLING, job.id)
            return
