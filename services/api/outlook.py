"""When a job will begin and end, from where it stands in line and what jobs have taken so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from qcrd.records import Job, Stage, Status
from qcrd.runtime.jobstores import JobStore
from qcrd.runtime.states import TASKS, task_of, waits
from qcrd.runtime.tally import Count, Tally
from services.api import views, wire


def shown(job: Job, jobs: JobStore, tally: Tally) -> wire.JobObject:
    """The job as clients see it, with its place in line."""
    return shown_all([job], jobs, tally)[0]


def shown_all(found: Sequence[Job], jobs: JobStore, tally: Tally) -> list[wire.JobObject]:
    waiting = [job for job in found if waits(job)]
    pace = _mean_seconds(tally.read()) if waiting else {}
    queues = {job.id: _queue(job, jobs, pace) for job in waiting}
    return [views.job(job, queues.get(job.id), _finish(job)) for job in found]


def _queue(job: Job, jobs: JobStore, pace: Mapping[str, float]) -> wire.Queue | None:
    """None for a job that somebody has taken since it was read."""
    task = task_of(job)
    before = jobs.place(task, job.id)
    if before is None:
        return None
    per_job = pace.get(task)
    eta = None if per_job is None else round((before + 1) * per_job, 1)
    return wire.Queue(position=before + 1, eta_seconds=eta)


def _mean_seconds(counts: Sequence[Count]) -> dict[str, float]:
    """What a job takes a worker of each task, on average over those that have ended."""
    seconds: dict[str, float] = dict.fromkeys(TASKS.values(), 0.0)
    ended: dict[str, float] = dict.fromkeys(TASKS.values(), 0.0)
    for count in counts:
        labels = dict(count.labels)
        if count.name == "stage_seconds_sum":
            seconds[TASKS[Stage(labels["stage"])]] += count.value
        if count.name == "stage_seconds" and labels["stage"] in FIRST.values():
            ended[TASKS[Stage(labels["stage"])]] += count.value
    return {task: seconds[task] / ended[task] for task in seconds if ended[task]}


FIRST = {"assemble": Stage.ASSEMBLING.value, "train": Stage.TRAINING.value}
"""The stage that counts the jobs of a task; the others of the same task only add their seconds."""


def _finish(job: Job) -> float | None:
    """Seconds since the epoch. Only training says how long the rest takes: before it nobody has
    measured a step, and what follows it is short."""
    eta = job.progress.eta_seconds
    if job.status is not Status.RUNNING or job.stage is not Stage.TRAINING or eta is None:
        return None
    return time.time() + eta
