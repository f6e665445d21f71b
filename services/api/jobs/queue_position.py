"""When a job will begin and end, from where it stands in line and what jobs have taken so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.state_machine import get_task, is_waiting
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import Counters
from services.api.http import schemas, serializers
from services.api.jobs import timings


def shown(job: Job, jobs: JobStore, tally: Counters) -> schemas.FineTuningJob:
    """The job as clients see it, with its place in line."""
    return shown_all([job], jobs, tally)[0]


def shown_all(found: Sequence[Job], jobs: JobStore, tally: Counters) -> list[schemas.FineTuningJob]:
    waiting = [job for job in found if is_waiting(job)]
    pace = timings.seconds_per_job(tally.read()) if waiting else {}
    queues = {job.id: _queue(job, jobs, pace) for job in waiting}
    return [serializers.serialize_job(job, queues.get(job.id), _finish(job)) for job in found]


def _queue(job: Job, jobs: JobStore, pace: Mapping[str, float]) -> schemas.QueuePosition | None:
    """None for a job that somebody has taken since it was read."""
    task = get_task(job)
    before = jobs.queue_position(task, job.id)
    if before is None:
        return None
    per_job = pace.get(task)
    eta = None if per_job is None else round((before + 1) * per_job, 1)
    return schemas.QueuePosition(position=before + 1, eta_seconds=eta)


def _finish(job: Job) -> float | None:
    """Seconds since the epoch. Only training says how long the rest takes: before it nobody has
    measured a step, and what follows it is short."""
    eta = job.progress.eta_seconds
    if job.status is not JobStatus.RUNNING or job.stage is not Stage.TRAINING or eta is None:
        return None
    return time.time() + eta
