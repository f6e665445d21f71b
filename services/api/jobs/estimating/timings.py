"""Durations of earlier jobs, from which estimates and queue times are computed."""

from __future__ import annotations

from collections.abc import Sequence

from qcrd.records.job import Job, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import CounterValue

MAX_RECENT_JOBS = 50
"""Newest jobs among which similar ones are searched."""
COUNTED_STAGES = {"assemble": Stage.ASSEMBLING.value, "train": Stage.TRAINING.value}
"""The stage that counts the jobs of a task; the others of the same task only add their seconds."""


def mean_seconds_per_job(counts: Sequence[CounterValue]) -> dict[str, float]:
    """Mean seconds of a worker per job, by task, over finished jobs; only tasks with any."""
    seconds: dict[str, float] = dict.fromkeys(COUNTED_STAGES, 0.0)
    jobs_ended: dict[str, float] = dict.fromkeys(COUNTED_STAGES, 0.0)
    tasks = {stage.value: task for stage, task in STAGE_TASKS.items()}
    for count in counts:
        stage = dict(count.labels).get("stage", "")
        task = tasks.get(stage)
        if task is None:
            continue  # of a release that has other stages
        if count.name == "stage_seconds_sum":
            seconds[task] += count.value
        if count.name == "stage_seconds" and stage in COUNTED_STAGES.values():
            jobs_ended[task] += count.value
    return {task: seconds[task] / jobs_ended[task] for task in seconds if jobs_ended[task]}


def mean_tokens_per_second(counts: Sequence[CounterValue]) -> float | None:
    """Tokens per second that teachers generated during assembling; None before the first job."""
    tokens = _sum_counts(counts, "teacher_tokens", ("kind", "completion"))
    seconds = _sum_counts(counts, "stage_seconds_sum", ("stage", Stage.ASSEMBLING.value))
    return tokens / seconds if tokens and seconds else None


def _sum_counts(counts: Sequence[CounterValue], name: str, label: tuple[str, str]) -> float:
    return sum(count.value for count in counts if count.name == name and label in count.labels)


def mean_seconds_per_step(jobs: JobStore, spec: JobSpec) -> tuple[int, float]:
    """The number of recent jobs similar to `spec`, and the mean seconds of their training steps."""
    similar_jobs = [
        job
        for job in jobs.list(None, MAX_RECENT_JOBS)
        if _is_similar(job, spec) and _training_steps(job)
    ]
    if not similar_jobs:
        return 0, 0.0
    return len(similar_jobs), sum(j.seconds["training"] for j in similar_jobs) / sum(
        _training_steps(j) for j in similar_jobs
    )


def _is_similar(job: Job, spec: JobSpec) -> bool:
    other_settings, own_settings = job.spec.settings, spec.settings
    return (
        job.report is not None
        and "training" in job.seconds
        and (job.spec.model, job.spec.method) == (spec.model, spec.method)
        and other_settings.hyperparameters.batch_size == own_settings.hyperparameters.batch_size
        and other_settings.baselines == own_settings.baselines
    )


def _training_steps(job: Job) -> int:
    """Steps of the job's own method; baselines are in the time of every similar job."""
    row = job.report.test.get(job.spec.method.value) if job.report else None
    return (row and row.steps) or 0
