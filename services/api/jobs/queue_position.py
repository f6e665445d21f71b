"""A job's queue position and estimated times, from the durations of earlier jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from qcrd.records import rest
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.state_machine import get_task, is_waiting
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import Counters
from services.api.http import serializers
from services.api.jobs.checks.spec_limits import shorten_method
from services.api.jobs.estimating import timings


def describe_job(job: Job, jobs: JobStore, counters: Counters) -> rest.FineTuningJob:
    """The job as clients see it, with its queue position."""
    return describe_jobs([job], jobs, counters)[0]


def list_jobs(
    job_list: Sequence[Job], jobs: JobStore, counters: Counters
) -> list[rest.FineTuningJob]:
    """The jobs as a list shows them: without long texts of their specs."""
    return [
        described.model_copy(update={"method": shorten_method(described.method)})
        for described in describe_jobs(job_list, jobs, counters)
    ]


def describe_jobs(
    job_list: Sequence[Job], jobs: JobStore, counters: Counters
) -> list[rest.FineTuningJob]:
    waiting = [job for job in job_list if is_waiting(job)]
    seconds_per_job = timings.mean_seconds_per_job(counters.read()) if waiting else {}
    queues = {job.id: _queue_position(job, jobs, seconds_per_job) for job in waiting}
    return [
        serializers.serialize_job(job, queues.get(job.id), _estimate_finish(job))
        for job in job_list
    ]


def _queue_position(
    job: Job, jobs: JobStore, seconds_per_job: Mapping[str, float]
) -> rest.QueuePosition | None:
    """The position; None for a job that a worker has claimed since it was read."""
    task = get_task(job)
    jobs_ahead = jobs.queue_position(task, job.id)
    if jobs_ahead is None:
        return None
    job_seconds = seconds_per_job.get(task)
    eta = None if job_seconds is None else round((jobs_ahead + 1) * job_seconds, 1)
    return rest.QueuePosition(position=jobs_ahead + 1, eta_seconds=eta)


def _estimate_finish(job: Job) -> float | None:
    """Seconds since the epoch. Only for training: before it no step has been measured, and the
    stages after it are short."""
    eta = job.progress.eta_seconds
    if job.status is not JobStatus.RUNNING or job.stage is not Stage.TRAINING or eta is None:
        return None
    return time.time() + eta
