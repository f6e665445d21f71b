"""What workers count, kept where every gateway can show it: a worker has no port to be asked on.

Counters only grow and outlive every process. A count is never worth a job: one that cannot be
written is left out and logged.
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
from qcrd.runtime import keys
from qcrd.runtime.redis.connection import translate_redis_errors

log = logging.getLogger(__name__)

COUNTER_HELP: Mapping[str, str] = MappingProxyType(
    {
        "teacher_tokens": "Tokens that jobs paid teachers for, by kind",
        "lease_losses": "Workers that found their job's lease gone to another",
        "deliveries_refused": "Messages that found nothing to do: second deliveries, taken jobs",
        "attempts_lost": "Attempts that ended in a crash or in silence",
        "budget_pauses": "Jobs that paused before they would have overspent",
        "webhooks": "Attempts to deliver a webhook, by outcome: delivered, postponed, given_up",
        "stage_seconds": "Seconds that workers spent on a stage of a job, until its end",
    }
)
"""Every name that is counted, with its help text. `stage_seconds` is a histogram: its labels are
the stage and the upper bound `le` of the bucket, and its sums are under `stage_seconds_sum`."""

STAGE_SECONDS_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds in seconds: from a test's stage to a day on a GPU."""


@dataclass(frozen=True)
class CounterValue:
    name: str
    labels: tuple[tuple[str, str], ...]
    value: float


class Counters(Protocol):
    def increment(self, name: str, value: float = 1.0, **labels: str) -> None:
        """Count `value` more. Never raises."""

    def read(self) -> list[CounterValue]:
        """All counts so far. `Transient` while Redis is away."""


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
                self._redis.hincrbyfloat(keys.COUNTERS, _encode_field(name, labels), value)
        except Transient as error:
            log.warning("not counted: %s by %s: %s", name, value, error)

    def read(self) -> list[CounterValue]:
        with translate_redis_errors():
            fields = cast(dict[str, str], self._redis.hgetall(keys.COUNTERS))
        return [_decode_field(field, float(value)) for field, value in sorted(fields.items())]


def observe_stage_seconds(counters: Counters, stage: str, seconds: float) -> None:
    """One more stage that has ended, in its bucket."""
    bound = next((str(limit) for limit in STAGE_SECONDS_BUCKETS if seconds <= limit), "+Inf")
    counters.increment("stage_seconds", 1.0, stage=stage, le=bound)
    counters.increment("stage_seconds_sum", seconds, stage=stage)


def _encode_field(name: str, labels: Mapping[str, str]) -> str:
    return json.dumps([name, sorted(labels.items())], separators=(",", ":"))


def _decode_field(field: str, value: float) -> CounterValue:
    name, labels = json.loads(field)
    return CounterValue(name, tuple((label, text) for label, text in labels), value)
