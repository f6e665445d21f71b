"""The reaper's lock on a real server, whose clock was set back while somebody had it."""

from __future__ import annotations

from qcrd.records.job import Stage
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings
from tests.reaping import reap_lost_job

ID = "ftjob-" + "a" * 24
HOUR_MS = 3_600_000


def test_a_lock_of_before_the_clock_went_back_is_not_held_for_as_long(
    redis_settings: RedisSettings,
) -> None:
    redis = connect_redis(redis_settings)
    redis.set(redis_keys.REAPER_LOCK, "of one that is gone", px=HOUR_MS)
    assert reap_lost_job(redis, ID, seconds=0.05) == (Stage.ASSEMBLING, ID)
    redis.delete(redis_keys.REAPER_LOCK)
