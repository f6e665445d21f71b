"""Counters of the workers, in Redis so that every gateway can export them: workers have no port.

Counters only grow and outlive every process. A count that cannot be written is logged and dropped,
as it must not fail a job.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol, cast

from redis import Redis

from qcrd.errors import Transient
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

log = logging.getLogger(__name__)

COUNTER_HELP: Mapping[str, str] = MappingProxyType(
    {
        "teacher_tokens": "Teacher tokens spent by jobs, by kind",
        "lease_losses": "Leases that workers lost to another worker",
        "deliveries_refused": "Queue messages without a claimable job: duplicates, claimed jobs",
        "attempts_lost": "Attempts that ended in a crash or an expired lease",
        "budget_pauses": "Pauses of jobs that would have exceeded their budget",
        "webhooks": "Attempts to deliver a webhook, by outcome: delivered, postponed, given_up",
        "stage_seconds": "Seconds that workers spent on a stage of a finished job",
    }
)
"""Every counter with its help text. `stage_seconds` is a histogram: its labels are
the stage and the upper bound `le` of the bucket, and its sums are under `stage_seconds_sum`."""

STAGE_SECONDS_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds in seconds, up to a day."""


@dataclass(frozen=True)
class CounterValue:
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Counters(Protocol):
    def increment(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Never raises."""

    def read(self) -> list[CounterValue]:
        """All counters. `Transient` while Redis is unavailable."""


class MemoryCounters:
    def __init__(self) -> None:
        self._counts: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def increment(self, name: str, value: float = 1.0, **labels: str) -> None:
        with self._lock:
            self._counts[_encode_field(name, labels)] += value

    def read(self) -> list[CounterValue]:
        with self._lock:
            return [_decode_field(field, value) for field, value in sorted(self._counts.items())]


class RedisCounters:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def increment(self, name: str, value: float = 1.0, **labels: str) -> None:
        try:
            with translate_redis_errors():
                self._redis.hincrbyfloat(redis_keys.COUNTERS, _encode_field(name, labels), value)
        except Transient as error:
            log.warning("counter %s not incremented by %s: %s", name, value, error)

    def read(self) -> list[CounterValue]:
        with translate_redis_errors():
            fields = cast(dict[str, str], self._redis.hgetall(redis_keys.COUNTERS))
        return [_decode_field(field, float(value)) for field, value in sorted(fields.items())]


def observe_stage_seconds(counters: Counters, stage: str, seconds: float) -> None:
    """Add a finished stage to the histogram."""
    bound = next((str(limit) for limit in STAGE_SECONDS_BUCKETS if seconds <= limit), "+Inf")
    counters.increment("stage_seconds", 1.0, stage=stage, le=bound)
    counters.increment("stage_seconds_sum", seconds, stage=stage)


def _encode_field(name: str, labels: Mapping[str, str]) -> str:
    return json.dumps([name, sorted(labels.items())], separators=(",", ":"))


def _decode_field(field: str, value: float) -> CounterValue:
    name, labels = json.loads(field)
    return CounterValue(name, tuple((label, text) for label, text in labels), value)
