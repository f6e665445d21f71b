"""Who is next: the jobs that wait for a worker, and the messages that are sent for them.

A message only says that there is work on its queue. Whoever gets it takes the job that comes first
among those that wait there, so priorities hold however late a message was sent.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator

from qcrd.errors import Conflict, NotFound
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs import commands as jobs
from qcrd.runtime.jobs.queue import Queue
from qcrd.runtime.jobs.stage_context import Deps
from qcrd.runtime.jobs.state_machine import TASKS, lapsed
from qcrd.runtime.jobs.store import JobStore

PAGE = 20
"""Waiting jobs looked at together: nearly always the first of them is taken."""


def take(deps: Deps, job_id: str, stage: Stage) -> Job | None:
    """The job, held by this worker; None when nobody waits whose owner may run one more."""
    full: set[str] = set()
    for candidate in _line(deps, job_id, stage):
        if candidate.owner in full:
            continue
        holder = f"{deps.owner}:{secrets.token_hex(4)}"
        try:
            job = jobs.claim(
                deps.jobs, candidate.id, holder, stage=stage, now=time.time(), ttl=deps.ttl
            )
        except Conflict:
            full.add(candidate.owner)
            continue
        if job is not None:
            if job.attempt > candidate.attempt:
                deps.tally.add("attempts_lost")  # by the silence of the one before
            return job
    return None


def _line(deps: Deps, job_id: str, stage: Stage) -> Iterator[Job]:
    """The jobs that a message for `job_id` may be used for, best first.

    A job whose worker fell silent is in no line, so its own message is for it alone.
    """
    try:
        named = deps.jobs.get(job_id)
    except NotFound:
        named = None
    if named is not None and lapsed(named, time.time()):
        yield named
    yield from _due(deps.jobs, stage)
    if named is not None:
        yield named


def _due(jobs_: JobStore, stage: Stage) -> Iterator[Job]:
    """Those that wait for `stage`'s task and back off from nothing, the next one first."""
    start = 0
    while page := jobs_.waiting(TASKS[stage], PAGE, start=start):
        yield from (job for job in page if (job.sent_at or 0.0) <= time.time())
        start += len(page)


def nudge(jobs_: JobStore, queue: Queue, ended: Job) -> None:
    """Send for those that wait to begin, as `ended` has made room: while its owner had as many
    running jobs as it may, their messages were used up. Call it whenever a job stops running.

    One that went back into the line sends for none that waits as it does: they would send for each
    other without end.
    """
    if ended.running_limit is None:
        return
    back = ended.status is JobStatus.QUEUED
    for job in _due(jobs_, Stage.ASSEMBLING):
        if job.id != ended.id and not (back and job.waiting):
            queue.send(Stage.ASSEMBLING, job.id)
            return
