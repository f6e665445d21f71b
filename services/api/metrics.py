"""What `/metrics` of a gateway shows of the whole system: jobs, lines, and what workers counted.

It is read from Redis when it is asked for, so every gateway shows the same: take the maximum over
gateways, not the sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from qcrd.errors import Transient
from qcrd.runtime.jobs.state_machine import STAGE_TASKS
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.counters import COUNTER_HELP, STAGE_SECONDS_BUCKETS, Counters, CounterValue

BOUNDS = (*map(str, STAGE_SECONDS_BUCKETS), "+Inf")


class System(Collector):
    """Registers without asking anybody; while Redis is away only `qcrd_redis_up` is shown."""

    def __init__(self, jobs: JobStore, tally: Counters) -> None:
        self._jobs = jobs
        self._tally = tally

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("qcrd_redis_up", "Whether Redis answered this question")
        try:
            found = [_statuses(self._jobs), _lines(self._jobs), *_counted(self._tally.read())]
        except Transient:
            up.add_metric([], 0.0)
            yield up
            return
        up.add_metric([], 1.0)
        yield up
        yield from found


def _statuses(jobs: JobStore) -> Metric:
    family = GaugeMetricFamily("qcrd_jobs", "Jobs by status", labels=["status"])
    for status, count in jobs.count_by_status().items():
        family.add_metric([status.value], count)
    return family


def _lines(jobs: JobStore) -> Metric:
    family = GaugeMetricFamily(
        "qcrd_queue_length", "Jobs that wait for a worker, by task", labels=["task"]
    )
    for task in sorted(set(STAGE_TASKS.values())):
        family.add_metric([task], jobs.queue_length(task))
    return family


def _counted(counts: list[CounterValue]) -> Iterator[Metric]:
    for name, meaning in COUNTER_HELP.items():
        mine = [count for count in counts if count.name == name]
        if name == "stage_seconds":
            yield _stages(counts, meaning)
            continue
        labels = sorted({label for count in mine for label, _ in count.labels})
        family = CounterMetricFamily(f"qcrd_{name}", meaning, labels=labels)
        if not mine:
            family.add_metric([], 0.0)
        for count in mine:
            own = dict(count.labels)
            family.add_metric([own.get(label, "") for label in labels], count.value)
        yield family


def _stages(counts: list[CounterValue], meaning: str) -> Metric:
    family = HistogramMetricFamily("qcrd_stage_seconds", meaning, labels=["stage"])
    sums = {dict(c.labels)["stage"]: c.value for c in counts if c.name == "stage_seconds_sum"}
    for stage, total in sums.items():
        held = {
            labels["le"]: count.value
            for count in counts
            if count.name == "stage_seconds" and (labels := dict(count.labels))["stage"] == stage
        }
        buckets, below = [], 0.0
        for bound in BOUNDS:
            below += held.get(bound, 0.0)
            buckets.append((bound, below))
        family.add_metric([stage], buckets, sum_value=total)
    return family
