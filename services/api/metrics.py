"""System metrics of `/metrics`: jobs by status, queue lengths and the workers' counters.

They are read from Redis at each scrape, so every gateway shows the same: take the maximum over
gateways, not the sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

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
from qcrd.runtime.redis.memory import RedisMemory

BUCKET_BOUNDS = (*map(str, STAGE_SECONDS_BUCKETS), "+Inf")


class SystemCollector(Collector):
    """Reads Redis at each scrape; while it is unavailable only `qcrd_redis_up` is shown."""

    def __init__(
        self,
        jobs: JobStore,
        counters: Counters,
        read_memory: Callable[[], RedisMemory] | None = None,
    ) -> None:
        self._jobs = jobs
        self._counters = counters
        self._read_memory = read_memory

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("qcrd_redis_up", "Whether Redis answered the last scrape")
        try:
            families = [
                _build_jobs_by_status(self._jobs),
                _build_queue_lengths(self._jobs),
                _build_jobs_wanted(self._jobs),
                *_build_counters(self._counters.read()),
                *(_build_memory(self._read_memory()) if self._read_memory else ()),
            ]
        except Transient:
            up.add_metric([], 0.0)
            yield up
            return
        up.add_metric([], 1.0)
        yield up
        yield from families


def _build_jobs_by_status(jobs: JobStore) -> Metric:
    family = GaugeMetricFamily("qcrd_jobs", "Jobs by status", labels=["status"])
    for status, count in jobs.count_by_status().items():
        family.add_metric([status.value], count)
    return family


def _build_queue_lengths(jobs: JobStore) -> Metric:
    family = GaugeMetricFamily(
        "qcrd_queue_length", "Jobs that wait for a worker, by task", labels=["task"]
    )
    for task in sorted(set(STAGE_TASKS.values())):
        family.add_metric([task], jobs.queue_length(task))
    return family


def _build_jobs_wanted(jobs: JobStore) -> Metric:
    family = GaugeMetricFamily(
        "qcrd_jobs_wanted",
        "Jobs that wait for a worker or have one, by task: how many workers have something to do",
        labels=["task"],
    )
    for task in sorted(set(STAGE_TASKS.values())):
        family.add_metric([task], jobs.queue_length(task) + jobs.count_held(task))
    return family


def _build_memory(memory: RedisMemory) -> Iterator[Metric]:
    for name, value, help_text in (
        ("used", memory.used, "Bytes of memory that Redis uses"),
        ("limit", memory.limit, "Bytes at which Redis takes no more writes; 0 without a limit"),
    ):
        family = GaugeMetricFamily(f"qcrd_redis_memory_{name}_bytes", help_text)
        family.add_metric([], value)
        yield family


def _build_counters(counts: list[CounterValue]) -> Iterator[Metric]:
    for name, help_text in COUNTER_HELP.items():
        matching = [count for count in counts if count.name == name]
        if name == "stage_seconds":
            yield _build_stage_histogram(counts, help_text)
            continue
        labels = sorted({label for count in matching for label, _ in count.labels})
        family = CounterMetricFamily(f"qcrd_{name}", help_text, labels=labels)
        if not matching:
            family.add_metric([], 0.0)
        for count in matching:
            label_values = dict(count.labels)
            family.add_metric([label_values.get(label, "") for label in labels], count.value)
        yield family


def _build_stage_histogram(counts: list[CounterValue], help_text: str) -> Metric:
    family = HistogramMetricFamily("qcrd_stage_seconds", help_text, labels=["stage"])
    sums = {
        stage: count.value
        for count in counts
        if count.name == "stage_seconds_sum" and (stage := dict(count.labels).get("stage"))
    }
    for stage, total in sums.items():
        counts_by_bound = {
            labels.get("le"): count.value
            for count in counts
            if count.name == "stage_seconds"
            and (labels := dict(count.labels)).get("stage") == stage
        }
        buckets, cumulative_count = [], 0.0
        for bound in BUCKET_BOUNDS:
            cumulative_count += counts_by_bound.get(bound, 0.0)
            buckets.append((bound, cumulative_count))
        family.add_metric([stage], buckets, sum_value=total)
    return family
