"""Metrics of the jobs that are not over: how long one waits, and how near one is to its budget."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from qcrd.errors import Transient
from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.store import JobStore


class ActiveJobsCollector(Collector):
    """The highest value of any job, read at each scrape: alerts watch it, and `qcrd jobs list`
    names the job. Nothing while Redis is unavailable."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        try:
            jobs, now = list(self._jobs.iter_active()), self._jobs.now()
        except Transient:
            return
        yield GaugeMetricFamily(
            "qcrd_job_waiting_seconds",
            "Seconds for which the running job that waits longest has made no progress",
            max((_count_waiting_seconds(job, now) for job in jobs), default=0.0),
        )
        yield GaugeMetricFamily(
            "qcrd_job_budget_used_ratio",
            "Share of its budget that the unfinished job nearest to it has used",
            max((compute_budget_share(job) for job in jobs), default=0.0),
        )


def _count_waiting_seconds(job: Job, now: float) -> float:
    if job.status is not JobStatus.RUNNING or job.waiting_since is None:
        return 0.0
    return max(0.0, now - job.waiting_since)


def compute_budget_share(job: Job) -> float:
    """Tokens and cost that are spent or may be, over the budget of each; the higher share, 0.0
    without a budget."""
    usage, budget = job.usage, job.budget
    shares = [0.0]
    if budget.teacher_tokens is not None:
        shares.append((usage.teacher_tokens + usage.uncertain) / budget.teacher_tokens)
    if budget.cost is not None:
        shares.append(((usage.cost or 0.0) + (usage.uncertain_cost or 0.0)) / budget.cost)
    return max(shares)
