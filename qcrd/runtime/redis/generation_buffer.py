"""Buffer of completed teacher outputs that are not yet written to a shard.

Each output is saved on arrival, so that it is not paid for again after a crash or a cancel.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, cast

from redis import Redis

from qcrd.runtime import keys
from qcrd.runtime.redis.connection import translate_redis_errors


class GenerationBuffer(Protocol):
    def add(self, set_key: str, field: str, payload: str) -> None:
        """Save `payload`, replacing that of the same field."""

    def read_all(self, set_key: str) -> dict[str, str]:
        """Payload per field; empty for an unknown set."""

    def remove(self, set_key: str, fields: Iterable[str]) -> None:
        """Delete `fields`; missing ones are ignored."""


class MemoryGenerationBuffer:
    def __init__(self) -> None:
        self._sets: dict[str, dict[str, str]] = defaultdict(dict)
        self._lock = threading.Lock()

    def add(self, set_key: str, field: str, payload: str) -> None:
        with self._lock:
            self._sets[set_key][field] = payload

    def read_all(self, set_key: str) -> dict[str, str]:
        with self._lock:
            return dict(self._sets[set_key])

    def remove(self, set_key: str, fields: Iterable[str]) -> None:
        with self._lock:
            for field in fields:
                self._sets[set_key].pop(field, None)


class RedisGenerationBuffer:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(self, set_key: str, field: str, payload: str) -> None:
        with translate_redis_errors():
            self._redis.hset(keys.generation_buffer_key(set_key), field, payload)

    def read_all(self, set_key: str) -> dict[str, str]:
        with translate_redis_errors():
            return cast(dict[str, str], self._redis.hgetall(keys.generation_buffer_key(set_key)))

    def remove(self, set_key: str, fields: Iterable[str]) -> None:
        names = list(fields)
        if names:
            with translate_redis_errors():
                self._redis.hdel(keys.generation_buffer_key(set_key), *names)
