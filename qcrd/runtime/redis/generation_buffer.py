"""Buffer of completed teacher outputs that are not yet written to a shard, and accounts of what
each job has reserved and spent with its teacher.

Each output is saved on arrival, so that it is not paid for again after a crash or a cancel. Its
cost enters the job's account with it: both are written, or neither.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from redis import Redis

from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

ACCOUNT_SECONDS = 90 * 24 * 3600
"""How long an account outlives the last request. The job's record has its sums by then."""


@dataclass(frozen=True)
class AccountUpdate:
    """A change of one job's account: the values of some fields, and fields that end. Made twice it
    has the same result."""

    job_id: str
    values: Mapping[str, str] = field(default_factory=dict)
    removed: tuple[str, ...] = ()


class GenerationBuffer(Protocol):
    def add(
        self, set_key: str, payloads: Mapping[str, str], account: AccountUpdate | None = None
    ) -> None:
        """Save the payloads by their fields, replacing those that are there, and update `account`
        with them."""

    def read_all(self, set_key: str) -> dict[str, str]:
        """Payload per field; empty for an unknown set."""

    def remove(self, set_key: str, fields: Iterable[str]) -> None:
        """Delete `fields`; missing ones are ignored."""

    def update_account(self, update: AccountUpdate) -> None:
        """All of the update or, on an error, none of it."""

    def read_account(self, job_id: str) -> dict[str, str]:
        """Value per field; empty for a job without an account."""


class MemoryGenerationBuffer:
    def __init__(self) -> None:
        self._sets: dict[str, dict[str, str]] = defaultdict(dict)
        self._accounts: dict[str, dict[str, str]] = defaultdict(dict)
        self._lock = threading.RLock()

    def add(
        self, set_key: str, payloads: Mapping[str, str], account: AccountUpdate | None = None
    ) -> None:
        with self._lock:
            self._sets[set_key].update(payloads)
            if account is not None:
                self._apply(account)

    def read_all(self, set_key: str) -> dict[str, str]:
        with self._lock:
            return dict(self._sets[set_key])

    def remove(self, set_key: str, fields: Iterable[str]) -> None:
        with self._lock:
            for field in fields:
                self._sets[set_key].pop(field, None)

    def update_account(self, update: AccountUpdate) -> None:
        with self._lock:
            self._apply(update)

    def read_account(self, job_id: str) -> dict[str, str]:
        with self._lock:
            return dict(self._accounts[job_id])

    def _apply(self, update: AccountUpdate) -> None:
        self._accounts[update.job_id].update(update.values)
        for name in update.removed:
            self._accounts[update.job_id].pop(name, None)


class RedisGenerationBuffer:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def add(
        self, set_key: str, payloads: Mapping[str, str], account: AccountUpdate | None = None
    ) -> None:
        with translate_redis_errors(), self._redis.pipeline() as pipe:
            fields: dict[Any, Any] = dict(payloads)
            pipe.hset(redis_keys.generation_buffer_key(set_key), mapping=fields)
            if account is not None:
                _queue_update(pipe, account)
            pipe.execute()

    def read_all(self, set_key: str) -> dict[str, str]:
        with translate_redis_errors():
            return cast(
                dict[str, str], self._redis.hgetall(redis_keys.generation_buffer_key(set_key))
            )

    def remove(self, set_key: str, fields: Iterable[str]) -> None:
        names = list(fields)
        if names:
            with translate_redis_errors():
                self._redis.hdel(redis_keys.generation_buffer_key(set_key), *names)

    def update_account(self, update: AccountUpdate) -> None:
        with translate_redis_errors(), self._redis.pipeline() as pipe:
            _queue_update(pipe, update)
            pipe.expire(redis_keys.token_account_key(update.job_id), ACCOUNT_SECONDS)
            pipe.execute()

    def read_account(self, job_id: str) -> dict[str, str]:
        with translate_redis_errors():
            return cast(dict[str, str], self._redis.hgetall(redis_keys.token_account_key(job_id)))


def _queue_update(pipe: Any, update: AccountUpdate) -> None:
    """Queue on `pipe` the commands that make `update`."""
    key = redis_keys.token_account_key(update.job_id)
    if update.values:
        pipe.hset(key, mapping=dict(update.values))
    if update.removed:
        pipe.hdel(key, *update.removed)
