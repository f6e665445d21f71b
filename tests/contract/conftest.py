"""Each port as its in-memory twin and on a real server: one test body runs on both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qcrd.runtime.jobs.store import JobStore, MemoryJobStore, RedisJobStore
from qcrd.runtime.redis.connection import connect
from qcrd.runtime.redis.counters import MemoryTally, RedisTally, Tally
from qcrd.runtime.redis.event_log import Events, MemoryEvents, RedisEvents
from qcrd.runtime.redis.generation_buffer import Ledger, MemoryLedger, RedisLedger
from qcrd.runtime.redis.webhook_queue import Deliveries, MemoryDeliveries, RedisDeliveries
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.store import MemoryStore, Store


@pytest.fixture(params=["memory", "redis"])
def jobs(request: pytest.FixtureRequest) -> JobStore:
    if request.param == "memory":
        return MemoryJobStore()
    return RedisJobStore(connect(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def events(request: pytest.FixtureRequest) -> Events:
    if request.param == "memory":
        return MemoryEvents()
    return RedisEvents(connect(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def deliveries(request: pytest.FixtureRequest) -> Deliveries:
    if request.param == "memory":
        return MemoryDeliveries()
    return RedisDeliveries(connect(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    if request.param == "memory":
        return MemoryLedger()
    return RedisLedger(connect(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def tally(request: pytest.FixtureRequest) -> Tally:
    if request.param == "memory":
        return MemoryTally()
    return RedisTally(connect(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    else:
        store = S3Store(request.getfixturevalue("fresh_s3_settings"))
        yield store
        for key in store.list(""):
            store.delete(key)
