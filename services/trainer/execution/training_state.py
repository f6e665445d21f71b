"""What a training in a cluster and its worker tell each other, through Redis.

They share no disk: the outcome, the sign of progress and the sign that a worker watches are keys,
named by the job and the lease under which it trains, and gone by themselves.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import Any, cast

from redis import Redis

from qcrd.errors import Transient
from qcrd.runtime.redis.connection import connect_redis, translate_redis_errors
from qcrd.runtime.retrying import call_with_retries
from qcrd.runtime.settings import RedisSettings
from services.trainer.supervision.process_outcome import Outcome

KEPT_SECONDS = 7 * 86_400
"""Of an outcome that no worker has taken, and of the sign of progress."""
MARK_SECONDS = 1.0
"""Least time between two signs of progress of a process."""
WRITE_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0)
"""Before an outcome is written again: as long as a launcher waits for its last rank."""


@dataclass(frozen=True)
class TrainingState:
    """The keys of one training. Every method raises `Transient` while Redis is unavailable."""

    redis: Redis
    job_id: str
    token: int

    def write_outcome(self, outcome: Outcome) -> None:
        """Tries again for about half a minute."""

        def write() -> None:
            with translate_redis_errors():
                self.redis.set(self._key("outcome"), outcome.model_dump_json(), ex=KEPT_SECONDS)

        call_with_retries(write, WRITE_DELAYS)

    def read_outcome(self) -> Outcome | None:
        with translate_redis_errors():
            body = cast("str | None", self.redis.get(self._key("outcome")))
        return None if body is None else Outcome.model_validate_json(body)

    def mark_started(self) -> None:
        """Its TrainJob is there: whoever takes it up asks the cluster for nothing."""
        with translate_redis_errors():
            self.redis.set(self._key("started"), "1", ex=KEPT_SECONDS)

    def is_started(self) -> bool:
        with translate_redis_errors():
            return bool(self.redis.exists(self._key("started")))

    def mark_progress(self) -> None:
        with translate_redis_errors(), self.redis.pipeline() as pipe:
            pipe.incr(self._key("progress"))
            pipe.expire(self._key("progress"), KEPT_SECONDS)
            pipe.execute()

    def read_progress(self) -> int | None:
        """A number that grows; None before the first sign."""
        with translate_redis_errors():
            mark = cast("str | None", self.redis.get(self._key("progress")))
        return None if mark is None else int(mark)

    def take_watch(self, watcher: str, seconds: float) -> bool:
        """Become the worker that watches this training for so many seconds, unless another does."""
        with translate_redis_errors():
            taken = self.redis.set(self._key("watcher"), watcher, nx=True, px=int(seconds * 1000))
        return bool(taken)

    def keep_watch(self, watcher: str, seconds: float) -> None:
        """Go on watching for so many seconds from now."""
        with translate_redis_errors():
            self.redis.set(self._key("watcher"), watcher, px=int(seconds * 1000))

    def is_watched(self) -> bool:
        with translate_redis_errors():
            return bool(self.redis.exists(self._key("watcher")))

    def leave_watch(self) -> None:
        """Another worker may take it at once."""
        with translate_redis_errors():
            self.redis.delete(self._key("watcher"))

    def _key(self, what: str) -> str:
        return f"qcrd:training:{self.job_id}:{self.token}:{what}"


@dataclass
class RedisProgressMark:
    """Marks progress in Redis, at most once a second. It travels to the sampler's process, which
    connects for itself."""

    job_id: str
    token: int
    _marked_at: float = field(default=-math.inf, init=False)
    _state: TrainingState | None = field(default=None, init=False, repr=False)

    def __call__(self) -> None:
        if time.monotonic() - self._marked_at < MARK_SECONDS:
            return
        self._marked_at = time.monotonic()
        if self._state is None:
            self._state = TrainingState(connect_redis(RedisSettings()), self.job_id, self.token)
        # Without Redis the training goes on, and so does the watch's patience with it.
        with contextlib.suppress(Transient):
            self._state.mark_progress()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None}
