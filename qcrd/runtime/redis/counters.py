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

from pydantic_core import from_json
from redis import Redis
from redis.exceptions import ResponseError

from qcrd.errors import Transient, UnreadableRecord
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

MAX_COUNT = 1e18
"""More than any counter reaches: what is above it is damaged, and would end sums as infinite."""
MAX_TOLD = 100
"""Damaged counters that a process names in its log."""


@dataclass(frozen=True)
class CounterValue:
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Counters(Protocol):
    def increment(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Never raises."""

    def read(self) -> list[CounterValue]:
        """All counters but those that cannot be read, each of which is logged once. `Transient`
        while Redis is unavailable."""


class MemoryCounters:
    def __init__(self) -> None:
        self._counts: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def increment(self, name: str, value: float = 1.0, **labels: str) -> None:
        with self._lock:
            self._counts[_encode_field(name, labels)] += value

    def read(self) -> list[CounterValue]:
        with self._lock:
            counts = sorted(self._counts.items())
        return [_decode_count(field, str(value)) for field, value in counts]


class RedisCounters:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._told: set[str] = set()

    def increment(self, name: str, value: float = 1.0, **labels: str) -> None:
        try:
            with translate_redis_errors():
                self._redis.hincrbyfloat(redis_keys.COUNTERS, _encode_field(name, labels), value)
        except (Transient, UnreadableRecord, ResponseError) as error:  # the last: it is no number
            log.warning("counter %s not incremented by %s: %s", name, value, error)

    def read(self) -> list[CounterValue]:
        try:
            with translate_redis_errors():
                fields = cast(dict[str, str], self._redis.hgetall(redis_keys.COUNTERS))
        except UnreadableRecord as error:
            self._tell_once(redis_keys.COUNTERS, error)
            return []
        counts = []
        for field, value in sorted(fields.items()):
            try:
                counts.append(_decode_count(field, value))
            except (TypeError, ValueError) as error:
                self._tell_once(field, error)
        return counts

    def _tell_once(self, field: str, error: Exception) -> None:
        if field not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(field)
            log.error(
                "counter %r of %s is left out, it is damaged: %s (HDEL removes it)",
                field[:200],
                redis_keys.COUNTERS,
                error,
            )


def observe_stage_seconds(counters: Counters, stage: str, seconds: float) -> None:
    """Add a finished stage to the histogram."""
    bound = next((str(limit) for limit in STAGE_SECONDS_BUCKETS if seconds <= limit), "+Inf")
    counters.increment("stage_seconds", 1.0, stage=stage, le=bound)
    counters.increment("stage_seconds_sum", seconds, stage=stage)


def _encode_field(name: str, labels: Mapping[str, str]) -> str:
    return json.dumps([name, sorted(labels.items())], separators=(",", ":"))


def _decode_count(field: str, value: str) -> CounterValue:
    """`TypeError` or `ValueError` for what `increment` does not write."""
    name, labels = from_json(field)
    count = float(value)
    if _encode_field(name, dict(labels)) != field:
        raise ValueError("its name is not written as counters' names are")
    if not 0 <= count <= MAX_COUNT:
        raise ValueError(f"its value is not between 0 and {MAX_COUNT:g}")
    return CounterValue(name, tuple((label, text) for label, text in labels), count)
