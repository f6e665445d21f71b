"""What an operator is told when Redis is away or refuses."""

from __future__ import annotations

import pytest

from qcrd.errors import Transient
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings
from tests.conftest import free_ports


def tell(url: str) -> str:
    jobs = RedisJobStore(connect_redis(RedisSettings(url=url), retry_seconds=0.0))
    with pytest.raises(Transient) as raised:
        jobs.list(None, 1)
    assert raised.value.code == "redis_unavailable"
    return raised.value.message


def test_a_wrong_password_is_told_without_it(redis_url: str) -> None:
    told = tell(redis_url.replace("redis://", "redis://nobody:not-to-be-told@"))
    assert told.startswith("Redis refuses the password: ")
    assert "QCRD_REDIS_URL" in told
    assert "not-to-be-told" not in told


def test_a_server_that_is_away_is_told_with_its_variable() -> None:
    told = tell(f"redis://127.0.0.1:{free_ports(1)[0]}/0")
    assert told.startswith("Redis does not respond: ")
    assert "QCRD_REDIS_URL" in told
