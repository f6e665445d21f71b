"""Thousands of followers on one gateway process, over real sockets and a real Valkey."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx2
import psutil
import pytest

from qcrd.records.job import Job
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.settings import RedisSettings
from tests.conftest import free_ports

FOLLOWERS = 2000
JOBS = 400
KILLS = int(os.environ.get("QCRD_KILLS", "2"))


class Gateway:
    def __init__(self, settings: RedisSettings, log: Path, port: int | None = None) -> None:
        self.port = port or free_ports(1)[0]
        environment = {
            **os.environ,
            "QCRD_REDIS_URL": settings.url,
            "QCRD_API_PORT": str(self.port),
            "QCRD_API_KEYS": "",
        }
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.api.main"],
                env=environment,
                cwd=Path(__file__).parents[3],
                stdout=out,
                stderr=out,
            )
        self.seen = psutil.Process(self.process.pid)
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self.process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            return httpx2.get(f"http://127.0.0.1:{self.port}/health").status_code == 200
        except httpx2.TransportError:
            return False


@pytest.fixture
def gateway(redis_settings: RedisSettings, tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(redis_settings, tmp_path / "log")
    yield gateway
    gateway.process.kill()
    gateway.process.wait()


def following_connections(settings: RedisSettings) -> int:
    """Connections that wait for events, in the test's own database."""
    database = settings.url.rsplit("/", 1)[1]
    clients = cast("list[dict[str, str]]", connect_redis(settings).client_list())
    return sum(c["db"] == database and c["cmd"] == "xread" for c in clients)


def follow_through(port: int, job_id: str, got: list[str]) -> None:
    """As a client does: come again with the id of the last event, until the job's end."""
    url = f"http://127.0.0.1:{port}/v1/fine_tuning/jobs/{job_id}/events?stream=true"
    last, ended = "0-0", False
    while not ended:
        with contextlib.suppress(httpx2.TransportError):
            headers = {"Last-Event-ID": last}
            with httpx2.stream("GET", url, headers=headers, timeout=30) as answer:
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        last = line.removeprefix("id: ")
                        got.append(last)
                    ended = ended or '"status":"succeeded"' in line
        time.sleep(0.05)


@pytest.mark.timeout(180 + 90 * KILLS)
def test_a_follower_of_gateways_that_are_killed_misses_and_doubles_nothing(
    redis_settings: RedisSettings, tmp_path: Path
) -> None:
    redis = connect_redis(redis_settings)
    jobs, events, job_id = RedisJobStore(redis), RedisEventLog(redis), keys.new_id("ftjob")
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    jobs.create(Job(id=job_id, spec=spec, created_at=time.time()))
    killed, made = threading.Event(), list[str]()

    def write() -> None:
        while not killed.is_set():
            made.append(events.append(job_id, "news").id)
            time.sleep(0.002)
        made.append(events.append(job_id, "end", data={"status": "succeeded"}, once="end").id)

    port, got = free_ports(1)[0], [[] for _ in range(5)]
    gateway = Gateway(redis_settings, tmp_path / "log-0", port)
    writer = threading.Thread(target=write)
    followers = [threading.Thread(target=follow_through, args=(port, job_id, g)) for g in got]
    for thread in (writer, *followers):
        thread.start()
    for number in range(1, KILLS + 1):
        time.sleep(random.uniform(0.2, 1.5))
        gateway.process.kill()
        gateway.process.wait()
        gateway = Gateway(redis_settings, tmp_path / f"log-{number}", port)
    killed.set()
    for thread in (writer, *followers):
        thread.join(60)
        assert not thread.is_alive()
    gateway.process.kill()
    gateway.process.wait()
    assert got == [made] * 5


async def follow(gateway: Gateway, job_id: str) -> tuple[asyncio.StreamReader, object]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    path = f"/v1/fine_tuning/jobs/{job_id}/events?stream=true"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def next_id(reader: asyncio.StreamReader) -> str:
    while not (line := await asyncio.wait_for(reader.readline(), 60)).startswith(b"id: "):
        assert line, "the stream has ended"
    return line.decode().strip().removeprefix("id: ")


async def ends(reader: asyncio.StreamReader) -> None:
    while await reader.readline():
        pass


def test_two_thousand_idle_followers_cost_one_connection_and_no_thread_each(
    gateway: Gateway, redis_settings: RedisSettings
) -> None:
    redis = connect_redis(redis_settings)
    jobs, events = RedisJobStore(redis), RedisEventLog(redis)
    ids = [keys.new_id("ftjob") for _ in range(JOBS)]
    for job_id in ids:
        spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
        jobs.create(Job(id=job_id, spec=spec, created_at=time.time()))
    # As of every job: one without any event is looked for in the archive.
    created = {job_id: events.append(job_id, "created").id for job_id in ids}

    async def follow_them() -> None:
        before = gateway.seen.memory_info().rss
        open_ = [await follow(gateway, ids[number % JOBS]) for number in range(FOLLOWERS)]
        readers = [reader for reader, _ in open_]
        first = await asyncio.gather(*(next_id(reader) for reader in readers))
        assert first == [created[ids[number % JOBS]] for number in range(FOLLOWERS)]
        connections = []
        while sum(connections) < 5:
            connections.append(following_connections(redis_settings))
            await asyncio.sleep(0.1)
        grown = (gateway.seen.memory_info().rss - before) / FOLLOWERS
        assert max(connections) == 1
        assert gateway.seen.num_threads() <= 60  # the routes' own 40 among them, whoever follows
        assert grown < 100 * 1024

        made = {job_id: events.append(job_id, "news").id for job_id in ids}
        got = await asyncio.gather(*(next_id(reader) for reader in readers))
        assert got == [made[ids[number % JOBS]] for number in range(FOLLOWERS)]

        gateway.process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(asyncio.gather(*map(ends, readers)), 60)
        await asyncio.to_thread(gateway.process.wait, 60)

    asyncio.run(follow_them())
