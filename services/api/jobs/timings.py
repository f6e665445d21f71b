"""What jobs have taken so far: what estimates and places in line are reckoned with."""

from __future__ import annotations

from collections.abc import Sequence

from qcrd.records.job import Job, Stage
from qcrd.records.spec import JobSpec
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import CounterValue

LOOKED_AT = 50
"""Newest jobs among which like ones are looked for."""
FIRST = {"assemble": Stage.ASSEMBLING.value, "train": Stage.TRAINING.value}
"""The stage that counts the jobs of a task; the others of the same task only add their seconds."""


def seconds_per_job(counts: Sequence[CounterValue]) -> dict[str, float]:
    """Of a worker, by task, on average over the jobs that have ended; without tasks that have
    none."""
    seconds: dict[str, float] = dict.fromkeys(FIRST, 0.0)
    ended: dict[str, float] = dict.fromkeys(FIRST, 0.0)
    for count in counts:
        labels = dict(count.labels)
        if count.name == "stage_seconds_sum":
            seconds[STAGE_TASKS[Stage(labels["stage"])]] += count.value
        if count.name == "stage_seconds" and labels["stage"] in FIRST.values():
            ended[STAGE_TASKS[Stage(labels["stage"])]] += count.value
    return {task: seconds[task] / ended[task] for task in seconds if ended[task]}


def tokens_per_second(counts: Sequence[CounterValue]) -> float | None:
    """That teachers wrote while jobs were assembled; None before the first."""
    tokens = _sum(counts, "teacher_tokens", ("kind", "completion"))
    seconds = _sum(counts, "stage_seconds_sum", ("stage", Stage.ASSEMBLING.value))
    return tokens / seconds if tokens and seconds else None


def _sum(counts: Sequence[CounterValue], name: str, label: tuple[str, str]) -> float:
    return sum(count.value for count in counts if count.name == name and label in count.labels)


def seconds_per_step(jobs: JobStore, spec: JobSpec) -> tuple[int, float]:
    """How many jobs like `spec` were found, and what a step of their training took on average."""
    like = [job for job in jobs.list(None, LOOKED_AT) if _alike(job, spec) and _steps(job)]
    if not like:
        return 0, 0.0
    return len(like), sum(j.seconds["training"] for j in like) / sum(_steps(j) for j in like)


def _alike(job: Job, spec: JobSpec) -> bool:
    theirs, ours = job.spec.settings, spec.settings
    return (
        job.report is not None
        and "training" in job.seconds
        and (job.spec.model, job.spec.method) == (spec.model, spec.method)
        and theirs.hyperparameters.batch_size == ours.hyperparameters.batch_size
        and theirs.baselines == ours.baselines
    )


def _steps(job: Job) -> int:
    """Of the job's own method; its baselines are in the time of every job like it."""
    row = job.report.test.get(job.spec.method.value) if job.report else None
    return (row and row.steps) or 0
