"""The queue, its broker going away, and a worker that has to live through it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from qcrd.errors import Transient
from qcrd.records.job import Stage
from qcrd.runtime import telemetry
from qcrd.runtime.jobs.queue import CeleryJobQueue, JobQueue, MemoryJobQueue, create_celery_app
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.settings import RedisSettings
from tests.conftest import free_ports, valkey
from tests.contract.runtime.start_queue_worker import start_queue_worker

Take = Callable[[], list[tuple[Stage, str]]]


@pytest.fixture(params=["memory", "celery"])
def queue(request: pytest.FixtureRequest) -> tuple[JobQueue, Take]:
    if request.param == "memory":
        memory = MemoryJobQueue()
        return memory, memory.drain
    app = create_celery_app(request.getfixturevalue("redis_settings"))

    def take() -> list[tuple[Stage, str]]:
        taken = []
        with app.connection_for_read() as connection:
            for name, stage in (("assemble", Stage.ASSEMBLING), ("train", Stage.TRAINING)):
                waiting = connection.SimpleQueue(name)
                with suppress(waiting.Empty):
                    while message := waiting.get(block=False):
                        message.ack()
                        assert message.headers["task"] == name
                        taken.append((stage, message.payload[0][0]))
        return taken

    return CeleryJobQueue(app), take


def test_a_message_goes_to_the_queue_of_its_stage(queue: tuple[JobQueue, Take]) -> None:
    sender, take = queue
    sender.send(Stage.ASSEMBLING, "ftjob-1")
    sender.send(Stage.ASSEMBLING, "ftjob-2")
    sender.send(Stage.TRAINING, "ftjob-3", countdown=5.0)
    counted = [sender.count_messages(stage) for stage in (Stage.ASSEMBLING, Stage.EVALUATING)]
    assert counted == [2, 1]
    assert take() == [
        (Stage.ASSEMBLING, "ftjob-1"),
        (Stage.ASSEMBLING, "ftjob-2"),
        (Stage.TRAINING, "ftjob-3"),
    ]
    assert take() == []
    assert sender.count_messages(Stage.TRAINING) == 0


def test_only_json_is_accepted_and_nothing_is_reserved_ahead() -> None:
    conf = create_celery_app(RedisSettings()).conf
    assert list(conf.accept_content) == ["json"]
    assert conf.worker_disable_prefetch
    assert not conf.task_acks_late
    assert conf.broker_connection_retry_on_startup


@pytest.fixture
def settings() -> RedisSettings:
    return RedisSettings(url=f"redis://127.0.0.1:{free_ports(1)[0]}/0")


@pytest.fixture
def broker(settings: RedisSettings, tmp_path: Path) -> Iterator[Any]:
    """A server of the test's own, not started yet, that keeps its data when it is stopped."""
    server = valkey(urlsplit(settings.url).port or 0, tmp_path / "valkey")
    yield server
    if server.is_running():
        server.stop()


def test_everything_is_transient_while_redis_is_away_and_works_when_it_is_back(
    broker: Any, settings: RedisSettings
) -> None:
    redis = connect_redis(settings, retry_seconds=0.5)
    jobs, events, queue = (
        RedisJobStore(redis),
        RedisEventLog(redis),
        CeleryJobQueue(create_celery_app(settings)),
    )
    calls = (
        lambda: jobs.list(None, 10),
        lambda: events.append("ftjob-1", "x"),
        lambda: queue.send(Stage.TRAINING, "ftjob-1"),
    )
    for call in calls:
        with pytest.raises(Transient):
            call()
    broker.start()
    for call in calls:
        call()
    broker.stop()
    with pytest.raises(Transient):
        jobs.list(None, 10)
    broker.start()
    assert [event.message for event in events.read("ftjob-1")] == ["x"]


def test_a_worker_waits_for_its_broker_at_the_start_and_in_the_middle(
    broker: Any, settings: RedisSettings, tmp_path: Path
) -> None:
    seen, log = tmp_path / "seen", tmp_path / "worker.log"
    worker = start_queue_worker(settings, seen, log)
    queue = CeleryJobQueue(create_celery_app(settings))

    def until(look: Callable[[], object]) -> None:
        deadline = time.monotonic() + 60
        while not look():
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            assert worker.poll() is None, log.read_text()[-4000:]
            time.sleep(0.1)

    def arrives(job_id: str) -> None:
        with telemetry.log_context(request_id=f"req-{job_id}"):
            queue.send(Stage.TRAINING, job_id)
        until(lambda: seen.exists() and job_id in seen.read_text())

    def refusals() -> int:
        return log.read_text().count("Cannot connect to redis")

    try:
        until(refusals)
        broker.start()
        arrives("before")
        earlier = refusals()
        broker.stop()
        until(lambda: refusals() > earlier)
        broker.start()
        arrives("after")
    finally:
        worker.terminate()
        worker.wait(20)
    assert seen.read_text().splitlines() == ["before req-before", "after req-after"]
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"got it"' in line]
    assert [(line["job_id"], line["request_id"]) for line in lines] == [
        ("before", "req-before"),
        ("after", "req-after"),
    ]
