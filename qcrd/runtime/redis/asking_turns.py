"""Which job asks a teacher for something, so that no two of them ask and pay for the same.

Whoever has a turn keeps it until it gives it back or is found to be gone; what a turn is for is
named by a digest. A turn that is lost, as with Redis, costs no more than what is then asked twice.
"""

from __future__ import annotations

import threading
from typing import Protocol, cast

from redis import Redis

from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

TURN_SECONDS = 7 * 24 * 3600
"""After which one that nobody gave back is gone; a batch takes a day."""

TAKE_SCRIPT = """
local holder = redis.pcall('GET', KEYS[1])
local is_id = type(holder) == 'string' and string.match(holder, '^[%w-]+$')
if is_id and holder ~= ARGV[1] and holder ~= ARGV[2] then return holder end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[3])
return ARGV[1]
"""
"""A damaged value is replaced."""
GIVE_BACK_SCRIPT = """
if redis.pcall('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class AskingTurns(Protocol):
    def take(self, work: str, job_id: str, *, instead_of: str = "") -> str:
        """The job that has the turn for `work` from now on: `job_id`, unless there is another one
        than `instead_of`."""

    def give_back(self, work: str, job_id: str) -> None:
        """The end of the turn, where `job_id` has it."""


class MemoryAskingTurns:
    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        self._lock = threading.Lock()

    def take(self, work: str, job_id: str, *, instead_of: str = "") -> str:
        with self._lock:
            holder = self._holders.get(work)
            if holder is None or holder == instead_of:
                holder = self._holders[work] = job_id
            return holder

    def give_back(self, work: str, job_id: str) -> None:
        with self._lock:
            if self._holders.get(work) == job_id:
                del self._holders[work]


class RedisAskingTurns:
    def __init__(self, redis: Redis) -> None:
        self._take_script = redis.register_script(TAKE_SCRIPT)
        self._give_back_script = redis.register_script(GIVE_BACK_SCRIPT)

    def take(self, work: str, job_id: str, *, instead_of: str = "") -> str:
        key = redis_keys.asking_turn_key(work)
        with translate_redis_errors():
            return cast(str, self._take_script([key], [job_id, instead_of, TURN_SECONDS]))

    def give_back(self, work: str, job_id: str) -> None:
        with translate_redis_errors():
            self._give_back_script([redis_keys.asking_turn_key(work)], [job_id])
