"""Each port as its in-memory twin and on a real server: one test body runs on both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.asking_turns import AskingTurns, MemoryAskingTurns, RedisAskingTurns
from qcrd.runtime.redis.base_model_reports import (
    BaseModelReports,
    MemoryBaseModelReports,
    RedisBaseModelReports,
)
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.counters import Counters, MemoryCounters, RedisCounters
from qcrd.runtime.redis.event_log import EventLog, RedisEventLog
from qcrd.runtime.redis.generation_buffer import (
    GenerationBuffer,
    MemoryGenerationBuffer,
    RedisGenerationBuffer,
)
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.redis.teacher_notes import (
    MemoryTeacherNotes,
    RedisTeacherNotes,
    TeacherNotes,
)
from qcrd.runtime.redis.webhook_queue import MemoryWebhookQueue, RedisWebhookQueue, WebhookQueue
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.store import MemoryStore, Store


@pytest.fixture(params=["memory", "redis"])
def jobs(request: pytest.FixtureRequest) -> JobStore:
    if request.param == "memory":
        return MemoryJobStore()
    return RedisJobStore(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def events(request: pytest.FixtureRequest) -> EventLog:
    if request.param == "memory":
        return MemoryEventLog()
    return RedisEventLog(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def deliveries(request: pytest.FixtureRequest) -> WebhookQueue:
    if request.param == "memory":
        return MemoryWebhookQueue()
    return RedisWebhookQueue(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def ledger(request: pytest.FixtureRequest) -> GenerationBuffer:
    if request.param == "memory":
        return MemoryGenerationBuffer()
    return RedisGenerationBuffer(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def tally(request: pytest.FixtureRequest) -> Counters:
    if request.param == "memory":
        return MemoryCounters()
    return RedisCounters(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def base_model_reports(request: pytest.FixtureRequest) -> BaseModelReports:
    if request.param == "memory":
        return MemoryBaseModelReports()
    return RedisBaseModelReports(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def turns(request: pytest.FixtureRequest) -> AskingTurns:
    if request.param == "memory":
        return MemoryAskingTurns()
    return RedisAskingTurns(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "redis"])
def teacher_notes(request: pytest.FixtureRequest) -> TeacherNotes:
    if request.param == "memory":
        return MemoryTeacherNotes()
    return RedisTeacherNotes(connect_redis(request.getfixturevalue("redis_settings")))


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
    else:
        store = S3Store(request.getfixturevalue("fresh_s3_settings"))
        yield store
        for key in store.list(""):
            store.delete(key)
