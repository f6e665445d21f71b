"""How full Redis is. A full one takes no writes: jobs wait until there is room again."""

from __future__ import annotations

from dataclasses import dataclass

from redis import Redis

from qcrd.runtime.redis.connection import translate_redis_errors

ALARM_SHARE = 0.8
"""Share of `maxmemory` from which on an operator is told: what is left takes hours to fill."""


@dataclass(frozen=True)
class RedisMemory:
    """Bytes in use, and at most; `limit` 0 for a server without one."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        return self.used / self.limit if self.limit else 0.0

    @property
    def is_alarming(self) -> bool:
        return self.share >= ALARM_SHARE

    def describe(self) -> str:
        return (
            f"Redis has {self.used >> 20} of {self.limit >> 20} MiB in use ({self.share:.0%}); at "
            "100 % all jobs wait: raise its `maxmemory`, lower QCRD_KEEP_ENDED_HOURS, or see what "
            "fills it"
        )


def read_redis_memory(redis: Redis) -> RedisMemory:
    """`Transient` while Redis does not answer."""
    with translate_redis_errors():
        found = redis.info("memory")
    return RedisMemory(used=int(found["used_memory"]), limit=int(found.get("maxmemory", 0)))
