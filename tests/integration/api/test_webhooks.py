"""Webhooks sent for real: to a receiver of the test's own, and by workers that are killed."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import openai
import pytest
from pydantic import SecretStr

from qcrd.records.job import Job, JobStatus
from qcrd.records.specs.spec import JobSpec
from qcrd.records.webhooks import WebhookDelivery
from qcrd.runtime import keys, redis_keys
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.finalize import finalize
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.redis.webhook_queue import RedisWebhookQueue
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.store import MemoryStore
from services.api.webhooks import sender
from services.api.webhooks.sender import deliver_forever
from services.api.webhooks.signing import WebhookSettings
from tests.conftest import free_ports
from tests.integration.api.receiver import Got, Receiver, receiver

KEY = base64.b64encode(os.urandom(32)).decode()
SECRET = f"whsec_{KEY}"
PATH = "/hook/a-token-of-the-receiver"
CELERY = ("-A", "services.api.worker", "worker", "-Q", "assemble", "-c", "1", "--pool=threads")


def until(look: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def unwrapped(got: Got) -> Any:
    client = openai.OpenAI(api_key="x", webhook_secret=SECRET)
    return client.webhooks.unwrap(got.body, got.headers)


def a_job(deps: WorkerDeps, url: str | None) -> Job:
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24, webhook=url)
    job = Job(id=keys.new_id("ftjob"), spec=spec, status=JobStatus.QUEUED, created_at=time.time())
    deps.jobs.create(job)
    return job


def ended(deps: WorkerDeps, url: str | None, status: JobStatus = JobStatus.CANCELLED) -> Job:
    return transition_job(deps.jobs, a_job(deps, url).id, status)


@pytest.fixture
def deps() -> WorkerDeps:
    return WorkerDeps(MemoryJobStore(), MemoryEventLog(), MemoryStore(), MemoryJobQueue())


@contextmanager
def delivering(deps: WorkerDeps, hosts: tuple[str, ...], timeout: float = 2.0) -> Iterator[None]:
    settings = WebhookSettings(hosts=hosts, secret=SecretStr(SECRET), timeout=timeout)
    stopping = threading.Event()

    async def run() -> None:
        await deliver_forever(
            deps, settings, stopping, poll_seconds=0.05, retry_schedule=(0.1, 0.2, 0.2)
        )

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(60)
        assert not thread.is_alive(), "it does not stop when it is told"


def owed(deps: WorkerDeps) -> list[WebhookDelivery]:
    """The deliveries that would ever be attempted again."""
    return deps.webhook_queue.claim_due(time.time() + 1e6, lease=1, limit=9)


def outcome(deps: WorkerDeps, job: Job) -> dict[str, Any] | None:
    """What the job's history says became of its webhook."""
    found = [event.data["webhook"] for event in deps.events.read(job.id) if "webhook" in event.data]
    assert len(found) <= 1
    return found[0] if found else None


def test_a_delivery_that_cannot_be_read_stops_no_other(
    deps: WorkerDeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, take = ["what nobody foresaw"], deps.webhook_queue.claim_due

    def take_or_break(now: float, *, lease: float, limit: int) -> list[WebhookDelivery]:
        if broken:
            raise ValueError(broken.pop())
        return take(now, lease=lease, limit=limit)

    monkeypatch.setattr(deps.webhook_queue, "claim_due", take_or_break)
    with receiver(lambda n: (204, {})) as there, delivering(deps, (there.url,)):
        job = ended(deps, there.url + PATH)
        finalize(deps, job)
        until(lambda: outcome(deps, job))


def test_the_end_of_a_job_is_told_signed_and_noted(deps: WorkerDeps) -> None:
    with receiver(lambda n: (204, {})) as there, delivering(deps, (there.url,)):
        job = ended(deps, there.url + PATH, JobStatus.FAILED)
        for _ in range(3):
            finalize(deps, job)
        told = until(lambda: outcome(deps, job))
    assert owed(deps) == []
    [got] = there.got
    event = unwrapped(got)
    assert (event.type, event.data.id) == ("fine_tuning.job.failed", job.id)
    assert event.created_at == int(job.finished_at or 0)
    assert (got.path, got.headers["webhook-id"]) == (PATH, event.id)
    assert told == {"id": event.id, "outcome": "delivered", "attempts": 1}


def test_what_fails_is_tried_again_under_the_same_id(
    deps: WorkerDeps, caplog: pytest.LogCaptureFixture
) -> None:
    statuses = [500, 302, 429, 200]
    headers = [{}, {"location": "http://127.0.0.1:1/elsewhere"}, {"retry-after": "1"}, {}]
    answers = lambda n: (statuses[n - 1], headers[n - 1])  # noqa: E731
    with receiver(answers) as there, delivering(deps, (there.url,)):
        job = ended(deps, there.url + PATH)
        finalize(deps, job)
        told = until(lambda: outcome(deps, job))
    assert (told["outcome"], told["attempts"]) == ("delivered", 4)
    assert len({unwrapped(got).id for got in there.got}) == 1
    assert len({got.body for got in there.got}) == 1
    assert "responded 500; again in 0 s" in caplog.text
    assert "responded 429; again in 1 s" in caplog.text, "Retry-After is honoured"


@pytest.mark.parametrize(("status", "attempts"), [(500, 4), (410, 1)])
def test_it_is_given_up_at_last_and_at_once_when_the_receiver_is_gone(
    status: int, attempts: int, deps: WorkerDeps
) -> None:
    with receiver(lambda n: (status, {})) as there, delivering(deps, (there.url,)):
        job = ended(deps, there.url + PATH)
        finalize(deps, job)
        told = until(lambda: outcome(deps, job))
    assert owed(deps) == []
    assert (told["outcome"], told["attempts"], len(there.got)) == ("given_up", attempts, attempts)
    assert f"responded {status}" in deps.events.read(job.id)[-1].message


@contextmanager
def stalling() -> Iterator[tuple[Receiver, threading.Event]]:
    """A receiver that responds to nothing before the event is set."""
    released = threading.Event()

    def stalls(number: int) -> tuple[int, dict[str, str]]:
        released.wait(120)
        return 200, {}

    with receiver(stalls) as slow:
        try:
            yield slow, released
        finally:
            released.set()


def test_a_receiver_that_lets_us_wait_holds_up_no_other(deps: WorkerDeps) -> None:
    with (
        stalling() as (slow, released),
        receiver(lambda n: (200, {})) as other,
        delivering(deps, (slow.url, other.url), timeout=50),
    ):
        waiting = [ended(deps, slow.url + PATH) for _ in range(5)]
        prompt = ended(deps, other.url + PATH)
        for job in (*waiting, prompt):
            finalize(deps, job)
        until(lambda: outcome(deps, prompt))
        assert [outcome(deps, job) for job in waiting] == [None] * 5
        released.set()
        for job in waiting:
            assert until(lambda job=job: outcome(deps, job))["outcome"] == "delivered"


def test_a_receiver_that_never_responds_is_given_up(deps: WorkerDeps) -> None:
    with stalling() as (slow, _), delivering(deps, (slow.url,), timeout=0.3):
        job = ended(deps, slow.url + PATH)
        finalize(deps, job)
        assert until(lambda: outcome(deps, job))["outcome"] == "given_up"
        assert "no answer within 0.3 s" in deps.events.read(job.id)[-1].message


def test_what_nobody_may_be_told_any_more_is_not_sent(deps: WorkerDeps) -> None:
    """A host that is no longer listed; a job that was deleted."""
    with receiver(lambda n: (200, {})) as there:
        unlisted, deleted = ended(deps, there.url + PATH), ended(deps, there.url + PATH)
        for job in (unlisted, deleted):
            finalize(deps, job)
        deps.jobs.delete(deleted.id)
        deps.events.delete(deleted.id)
        with delivering(deps, ("example.com",)):
            told = until(lambda: outcome(deps, unlisted))
            until(lambda: not owed(deps))
        assert told["outcome"] == "given_up"
        assert deps.events.read(deleted.id) == []
        assert there.got == []


def test_neither_the_secret_nor_the_receiver_s_path_is_told_anywhere(
    deps: WorkerDeps, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "services")
    port = free_ports(1)[0]  # nobody listens: the client's errors name the URL
    silent = f"http://127.0.0.1:{port}"
    with receiver(lambda n: (500, {})) as there, delivering(deps, (there.url, silent)):
        jobs = [ended(deps, url + PATH) for url in (silent, there.url)]
        for job in jobs:
            finalize(deps, job)
        for job in jobs:
            assert until(lambda job=job: outcome(deps, job))["outcome"] == "given_up"
    written = caplog.text + str([record.__dict__ for record in caplog.records])
    written += "".join(e.model_dump_json() for job in jobs for e in deps.events.read(job.id))
    assert KEY not in written
    assert "a-token-of-the-receiver" not in written
    assert "given_up" in written


# --- workers that are killed -------------------------------------------------------------------


@pytest.fixture
def remote(redis_settings: RedisSettings, fresh_s3_settings: StoreSettings) -> WorkerDeps:
    redis = connect_redis(redis_settings)
    return WorkerDeps(
        RedisJobStore(redis),
        RedisEventLog(redis),
        S3Store(fresh_s3_settings),
        MemoryJobQueue(),
        webhook_queue=RedisWebhookQueue(redis),
    )


def worker(
    redis: RedisSettings, store: StoreSettings, hosts: str, out: IO[bytes]
) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "QCRD_REDIS_URL": redis.url,
        "QCRD_S3_ENDPOINT": store.endpoint,
        "QCRD_S3_ACCESS_KEY": store.access_key,
        "QCRD_S3_SECRET_KEY": store.secret_key.get_secret_value(),
        "QCRD_S3_BUCKET": store.bucket,
        "QCRD_WEBHOOK_HOSTS": hosts,
        "QCRD_WEBHOOK_SECRET": SECRET,
    }
    command = [sys.executable, "-m", "celery", *CELERY]
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, env=environment, cwd=root, stdout=out, stderr=out)


@pytest.mark.timeout(240)
def test_a_worker_killed_in_the_middle_of_a_delivery_loses_none(
    remote: WorkerDeps,
    redis_settings: RedisSettings,
    fresh_s3_settings: StoreSettings,
    tmp_path: Path,
) -> None:
    """The first attempts hang until the worker is killed; the next worker, once the leases are
    over, makes the second. The jobs were moved to their end by somebody who died before the
    telling, so the worker's reaper concludes them first."""
    released = threading.Event()

    def hangs(number: int) -> tuple[int, dict[str, str]]:
        if number <= 3:
            released.wait(60)
        return 200, {}

    log = tmp_path / "log"
    with receiver(hangs) as there, log.open("wb") as out:
        jobs = [ended(remote, there.url + PATH) for _ in range(3)]
        first = worker(redis_settings, fresh_s3_settings, there.url, out)
        try:
            until(lambda: len(there.got) == 3, 90)
        finally:
            first.send_signal(signal.SIGKILL)
            first.wait()
        released.set()
        assert all(outcome(remote, job) is None for job in jobs)
        forward_leases(redis_settings)
        second = worker(redis_settings, fresh_s3_settings, there.url, out)
        try:
            for job in jobs:
                told = until(lambda job=job: outcome(remote, job), 60)
                assert (told["outcome"], told["attempts"]) == ("delivered", 2)
                until(lambda job=job: remote.jobs.get(job.id).concluded, 60)
        finally:
            second.send_signal(signal.SIGTERM)
            code = second.wait(60)
        assert code == 0
    ids = [unwrapped(got).data.id for got in there.got]
    assert sorted(ids) == sorted(2 * [job.id for job in jobs])
    for job in jobs:
        ends = [e for e in remote.events.read(job.id) if e.data.get("status") == "cancelled"]
        assert len(ends) == 1
    lines = log.read_text()
    assert KEY not in lines
    assert "a-token-of-the-receiver" not in lines
    delivered = [json.loads(line) for line in lines.splitlines() if '"delivered"' in line]
    assert sorted(line["job_id"] for line in delivered) == sorted(job.id for job in jobs)


def forward_leases(settings: RedisSettings) -> None:
    """Let a minute pass: what is due by the end of a lease is due now."""
    redis = connect_redis(settings)
    for delivery_id in redis.zrange(redis_keys.WEBHOOKS_DUE, 0, -1):  # type: ignore[union-attr]
        redis.zincrby(redis_keys.WEBHOOKS_DUE, -sender.LEASE_SECONDS, delivery_id)
