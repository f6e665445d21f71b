"""Event streams to many followers: the delay until the last of them receives an event."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from benchmarks.gateway.monitor import (
    MEGABYTE,
    median_ms,
    percentile_99_ms,
    spawn_context,
    watch_process,
)
from benchmarks.gateway.system import BASE_MODEL, BenchmarkSystem, GatewayProcess
from qcrd.records.job import Job
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.event_log import RedisEventLog

PATH = "/v1/fine_tuning/jobs/{}/events?stream=true"
MAX_CONNECTING = 50
"""At once."""
TIMEOUT_SECONDS = 60.0
ONE_JOB_SECONDS = 0.25
"""Between two events of the job that all follow: four per second, 2,000 deliveries to 500."""
MANY_JOBS_SECONDS = 0.01
"""Seconds between two events of different jobs."""

Arrivals = list[list[tuple[str, float]]]
"""Of each follower, in the order in which they came: event id, and the clock that all processes of
this machine share (`time.monotonic`)."""

Appended = dict[str, list[tuple[str, float]]]
"""Per job: its events' ids, and the start of each append."""


class FollowerProtocol(asyncio.Protocol):
    """Records the time when an event's first line arrives, and nothing else: 500 followers must
    not be slower than the gateway."""

    def __init__(self, job_id: str) -> None:
        self._request = f"GET {PATH.format(job_id)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self._buffer = b""
        self.connected = asyncio.get_running_loop().create_future()
        self.arrivals: list[tuple[str, float]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                self.arrivals.append((line[4:].decode().strip(), now))
            elif line.startswith(b"HTTP/") and not self.connected.done():
                self.connected.set_result(line.split()[1] == b"200")


def _run_followers(port: int, job_ids: Sequence[str], events: int, pipe: Connection) -> None:
    """Run followers in this process, one per id; reports when all are connected, when each has its
    first event, and, `events` later, what each received and when."""
    pipe.send(asyncio.run(_follow_jobs(port, job_ids, events, pipe)))


async def _follow_jobs(
    port: int, job_ids: Sequence[str], events: int, pipe: Connection
) -> Arrivals:
    loop, connecting = asyncio.get_running_loop(), asyncio.Semaphore(MAX_CONNECTING)

    async def connect_follower(job_id: str) -> FollowerProtocol:
        async with connecting:
            _, follower = await loop.create_connection(
                lambda: FollowerProtocol(job_id), "127.0.0.1", port
            )
            if not await follower.connected:
                raise RuntimeError(f"job {job_id} cannot be followed")
            return follower

    followers = await asyncio.gather(*map(connect_follower, job_ids))
    pipe.send("connected")
    await _wait_until(lambda: all(follower.arrivals for follower in followers))
    pipe.send("following")
    await _wait_until(lambda: all(len(follower.arrivals) > events for follower in followers))
    return [follower.arrivals for follower in followers]


async def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not done() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def measure(
    system: BenchmarkSystem, gateway: GatewayProcess, *, jobs: int, followers: int, events: int
) -> dict[str, float]:
    """One round with `events` events of each of `jobs` jobs; times in milliseconds, from before the
    append until the last follower has it."""
    event_log, ids = RedisEventLog(system.redis), _create_jobs(system, jobs)
    followed = [ids[number % jobs] for number in range(followers)]
    parent_pipe, child_pipe = spawn_context.Pipe()
    port = int(gateway.url.rsplit(":", 1)[1])
    followers_process = spawn_context.Process(
        target=_run_followers, args=(port, followed, events, child_pipe), daemon=True
    )
    followers_process.start()
    child_pipe.close()
    _expect_message(parent_pipe, "connected")
    first = {job_id: event_log.append(job_id, "first").id for job_id in ids}
    _expect_message(parent_pipe, "following")
    with watch_process(gateway.pid) as usage:
        appended = _append_events(event_log, ids, events)
        arrivals: Arrivals = parent_pipe.recv()
    followers_process.join()
    expected = {job: [first[job], *(e for e, _ in appended[job])] for job in ids}
    lags = _measure_lags(followed, arrivals, appended)
    return {
        "wrong": count_wrong(followed, arrivals, expected),
        "p50_ms": median_ms(lags),
        "p99_ms": percentile_99_ms(lags),
        "core_share": usage.share,
        "rss_mb": usage.rss / MEGABYTE,
        "threads": usage.threads,
    }


def _create_jobs(system: BenchmarkSystem, count: int) -> list[str]:
    """Create jobs that no worker claims."""
    ids = [keys.new_id("ftjob") for _ in range(count)]
    spec = JobSpec(model=BASE_MODEL, training_file="file-" + "0" * 24)
    for job_id in ids:
        RedisJobStore(system.redis).create(Job(id=job_id, spec=spec, created_at=time.time()))
    return ids


def _expect_message(pipe: Connection, expected: str) -> None:
    if (received := pipe.recv()) != expected:
        raise RuntimeError(f"the followers say {received!r}, not {expected!r}")


def _append_events(event_log: RedisEventLog, ids: Sequence[str], events: int) -> Appended:
    pause = ONE_JOB_SECONDS if len(ids) == 1 else MANY_JOBS_SECONDS
    appended: Appended = defaultdict(list)
    for number in range(events):
        for job_id in ids:
            started_at = time.monotonic()
            event = event_log.append(job_id, f"step {number}", type="metrics", data={"loss": 0.5})
            appended[job_id].append((event.id, started_at))
            time.sleep(max(0.0, started_at + pause - time.monotonic()))
    return appended


def count_wrong(followed: Sequence[str], arrivals: Arrivals, expected: dict[str, list[str]]) -> int:
    """The number of followers that did not receive their job's events once and in order."""
    return sum(
        [event for event, _ in received] != expected[job_id]
        for job_id, received in zip(followed, arrivals, strict=True)
    )


def _measure_lags(followed: Sequence[str], arrivals: Arrivals, appended: Appended) -> list[float]:
    """Seconds per received event."""
    last: dict[tuple[str, str], float] = {}
    for job_id, received in zip(followed, arrivals, strict=True):
        for event, at in received:
            last[job_id, event] = max(at, last.get((job_id, event), 0.0))
    return [
        last[job_id, event] - started_at
        for job_id, job_events in appended.items()
        for event, started_at in job_events
        if (job_id, event) in last
    ]
