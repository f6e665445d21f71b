"""A Redis whose memory is full: an operator is told before, and all that needs it waits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from redis import Redis
from redis.exceptions import OutOfMemoryError

from qcrd.errors import Transient
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.commands import claim_job, renew_lease, transition_job, update_job
from qcrd.runtime.jobs.queue import CeleryJobQueue, MemoryJobQueue, create_celery_app
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.counters import MemoryCounters
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.redis.generation_buffer import AccountUpdate, RedisGenerationBuffer
from qcrd.runtime.redis.memory import RedisMemory, read_redis_memory
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import RedisSettings
from qcrd.runtime.storage.store import MemoryStore
from services.api import worker as api_worker
from services.api.metrics import SystemCollector
from tests.conftest import free_ports, valkey
from tests.contract.runtime.start_queue_worker import start_queue_worker

JOB = Job(
    id="ftjob-" + "a" * 24,
    spec=JobSpec(model="tiny", training_file="file-" + "0" * 24),
    status=JobStatus.QUEUED,
    created_at=1.0,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    server = valkey(free_ports(1)[0], tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def settings(server: Any) -> RedisSettings:
    return RedisSettings(url=f"redis://127.0.0.1:{server.port}/0")


def fill(redis: Redis) -> None:
    redis.config_set("maxmemory", read_redis_memory(redis).used + 1)
    with suppress(OutOfMemoryError):
        for number in range(1000):
            redis.set(f"filling-{number}", "x" * 65536)


def test_all_that_writes_waits_and_goes_on_when_there_is_room(settings: RedisSettings) -> None:
    redis = connect_redis(settings)
    jobs, events = RedisJobStore(redis), RedisEventLog(redis)
    buffer, queue = RedisGenerationBuffer(redis), CeleryJobQueue(create_celery_app(settings))
    jobs.create(JOB)
    claimed = claim_job(jobs, JOB.id, "worker", stage=Stage.ASSEMBLING, now=1.0, ttl=1e9)
    assert claimed is not None
    token = claimed.lease.token
    writes: dict[str, Callable[[], object]] = {
        "create": lambda: jobs.create(JOB.model_copy(update={"id": "ftjob-" + "b" * 24})),
        "renew": lambda: renew_lease(jobs, JOB.id, token, 2.0, 1e9),
        "update": lambda: update_job(jobs, JOB.id, token, waiting="x"),
        "append": lambda: events.append(JOB.id, "told"),
        "keep": lambda: buffer.add("t/s", {"key": "output"}, AccountUpdate(JOB.id, {"a": "1"})),
        "account": lambda: buffer.update_account(AccountUpdate(JOB.id, {"b": "1"})),
        "send": lambda: queue.send(Stage.TRAINING, JOB.id),
        "end": lambda: transition_job(jobs, JOB.id, JobStatus.CANCELLED),
    }
    fill(redis)
    for write in writes.values():
        with pytest.raises(Transient):
            write()
    assert jobs.get(JOB.id) == claimed, "it can be read, and is as it was"
    assert buffer.read_account(JOB.id) == {}, "both are written, or neither"
    redis.config_set("maxmemory", 0)
    for write in writes.values():
        write()
    assert jobs.get(JOB.id).status is JobStatus.CANCELLED
    assert queue.count_messages(Stage.TRAINING) == 1


def test_an_operator_is_told_long_before(settings: RedisSettings) -> None:
    redis = connect_redis(settings)
    used = read_redis_memory(redis).used
    redis.config_set("maxmemory", int(used / 0.9))
    memory = read_redis_memory(redis)
    assert memory.is_alarming
    assert not RedisMemory(used=79, limit=100).is_alarming
    assert not RedisMemory(used=79, limit=0).is_alarming
    deps = WorkerDeps(MemoryJobStore(), MemoryEventLog(), MemoryStore(), MemoryJobQueue())
    deps.jobs.create(JOB)
    for _ in range(2):
        api_worker.alarm_full_redis(deps, memory)
    [told] = deps.events.read(JOB.id)
    assert told.level == "warn"
    assert "maxmemory" in told.message
    assert told.data["redis_memory_limit"] == memory.limit

    registry = CollectorRegistry()
    registry.register(
        SystemCollector(deps.jobs, MemoryCounters(), lambda: RedisMemory(used=5, limit=10))
    )
    shown = generate_latest(registry).decode()
    assert "qcrd_redis_memory_used_bytes 5.0" in shown
    assert "qcrd_redis_memory_limit_bytes 10.0" in shown


def test_a_worker_waits_for_room_and_takes_what_is_sent_then(
    settings: RedisSettings, tmp_path: Path
) -> None:
    """Celery would end it at the first write that is refused."""
    redis, queue = connect_redis(settings), CeleryJobQueue(create_celery_app(settings))
    fill(redis)
    seen, log = tmp_path / "seen", tmp_path / "worker.log"
    worker = start_queue_worker(settings, seen, log)

    def until(look: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not look():
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            assert worker.poll() is None, log.read_text()[-4000:]
            time.sleep(0.1)

    try:
        until(lambda: log.read_text().count("maxmemory") > 2)
        redis.config_set("maxmemory", 0)
        queue.send(Stage.TRAINING, JOB.id)
        until(lambda: seen.exists() and JOB.id in seen.read_text())
    finally:
        worker.terminate()
        worker.wait(20)
