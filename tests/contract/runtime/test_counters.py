"""Counters of workers: both twins add up, by name and labels, and never raise."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.counters import (
    STAGE_SECONDS_BUCKETS,
    Counters,
    CounterValue,
    RedisCounters,
    observe_stage_seconds,
)
from qcrd.runtime.settings import RedisSettings
from tests.conftest import free_ports


def test_counts_add_up_by_name_and_labels(tally: Counters) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: tally.increment("teacher_tokens", 2.5, kind="prompt"), range(20)))
    tally.increment("teacher_tokens", 1.0, kind="completion")
    tally.increment("attempts_lost")
    assert tally.read() == [
        CounterValue("attempts_lost", (), 1.0),
        CounterValue("teacher_tokens", (("kind", "completion"),), 1.0),
        CounterValue("teacher_tokens", (("kind", "prompt"),), 50.0),
    ]


def test_a_stage_goes_into_the_bucket_that_holds_it(tally: Counters) -> None:
    for seconds in (0.5, STAGE_SECONDS_BUCKETS[1], 1e6):
        observe_stage_seconds(tally, "training", seconds)
    counted = {(c.name, *dict(c.labels).values()): c.value for c in tally.read()}
    assert counted[("stage_seconds_sum", "training")] == 0.5 + STAGE_SECONDS_BUCKETS[1] + 1e6
    assert {bound for name, bound, *_ in counted if name == "stage_seconds"} == {
        "1.0",
        "5.0",
        "+Inf",
    }


def test_counting_never_raises() -> None:
    nobody = RedisSettings(url=f"redis://127.0.0.1:{free_ports(1)[0]}/0")
    RedisCounters(connect_redis(nobody, retry_seconds=0.0)).increment("attempts_lost")
