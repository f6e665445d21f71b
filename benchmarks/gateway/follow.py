"""Event streams to many followers: how long after its append the last of them has an event."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from benchmarks.gateway.monitor import MEGABYTE, apart, p50, p99, watched
from benchmarks.gateway.system import BASE, Gateway, System
from qcrd.records.job import Job
from qcrd.records.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.store import RedisJobStore
from qcrd.runtime.redis.event_log import RedisEventLog

PATH = "/v1/fine_tuning/jobs/{}/events?stream=true"
CONNECTING = 50
"""At once."""
PATIENCE = 60.0
ONE_JOB_SECONDS = 0.25
"""Between two events of the job that all follow: four per second, 2,000 deliveries to 500."""
MANY_JOBS_SECONDS = 0.01
"""Between two events of different jobs."""

Arrivals = list[list[tuple[str, float]]]
"""Of each follower, in the order in which they came: event id, and the clock that all processes of
this machine share (`time.monotonic`)."""

Appended = dict[str, list[tuple[str, float]]]
"""Of each job: its events' ids, and when each append began."""


class Follower(asyncio.Protocol):
    """Takes the time when an event's first line is there, and does nothing else: 500 of them must
    not be slower than the gateway."""

    def __init__(self, job_id: str) -> None:
        self._request = f"GET {PATH.format(job_id)} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
        self._held = b""
        self.answered = asyncio.get_running_loop().create_future()
        self.got: list[tuple[str, float]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            if line.startswith(b"id: "):
                self.got.append((line[4:].decode().strip(), now))
            elif line.startswith(b"HTTP/") and not self.answered.done():
                self.answered.set_result(line.split()[1] == b"200")


def _crowd(port: int, job_ids: Sequence[str], events: int, pipe: Connection) -> None:
    """A process of followers, one per id given; says when all are connected, when each has its
    first event, and, `events` later, what each got and when."""
    pipe.send(asyncio.run(_follow(port, job_ids, events, pipe)))


async def _follow(port: int, job_ids: Sequence[str], events: int, pipe: Connection) -> Arrivals:
    loop, places = asyncio.get_running_loop(), asyncio.Semaphore(CONNECTING)

    async def one(job_id: str) -> Follower:
        async with places:
            _, follower = await loop.create_connection(lambda: Follower(job_id), "127.0.0.1", port)
            if not await follower.answered:
                raise RuntimeError(f"job {job_id} cannot be followed")
            return follower

    followers = await asyncio.gather(*map(one, job_ids))
    pipe.send("connected")
    await _until(lambda: all(follower.got for follower in followers))
    pipe.send("following")
    await _until(lambda: all(len(follower.got) > events for follower in followers))
    return [follower.got for follower in followers]


async def _until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done() and time.monotonic() < deadline:
        await asyncio.sleep(0.05)


def measure(
    system: System, gateway: Gateway, *, jobs: int, followers: int, events: int
) -> dict[str, float]:
    """One round with `events` events of each of `jobs` jobs; times in milliseconds, from before the
    append until the last follower has it."""
    told, ids = RedisEventLog(system.redis), _jobs(system, jobs)
    followed = [ids[number % jobs] for number in range(followers)]
    ours, theirs = apart.Pipe()
    port = int(gateway.url.rsplit(":", 1)[1])
    crowd = apart.Process(target=_crowd, args=(port, followed, events, theirs), daemon=True)
    crowd.start()
    theirs.close()
    _heard(ours, "connected")
    first = {job_id: told.append(job_id, "first").id for job_id in ids}
    _heard(ours, "following")
    with watched(gateway.pid) as seen:
        appended = _append(told, ids, events)
        arrivals: Arrivals = ours.recv()
    crowd.join()
    expected = {job: [first[job], *(e for e, _ in appended[job])] for job in ids}
    lags = _lags(followed, arrivals, appended)
    return {
        "wrong": wrong(followed, arrivals, expected),
        "p50_ms": p50(lags),
        "p99_ms": p99(lags),
        "core_share": seen.share,
        "rss_mb": seen.rss / MEGABYTE,
        "threads": seen.threads,
    }


def _jobs(system: System, count: int) -> list[str]:
    """New ones, as they are while nobody works on them."""
    ids = [keys.new_id("ftjob") for _ in range(count)]
    spec = JobSpec(model=BASE, training_file="file-" + "0" * 24)
    for job_id in ids:
        RedisJobStore(system.redis).create(Job(id=job_id, spec=spec, created_at=time.time()))
    return ids


def _heard(pipe: Connection, word: str) -> None:
    if (said := pipe.recv()) != word:
        raise RuntimeError(f"the followers say {said!r}, not {word!r}")


def _append(told: RedisEventLog, ids: Sequence[str], events: int) -> Appended:
    pause = ONE_JOB_SECONDS if len(ids) == 1 else MANY_JOBS_SECONDS
    made: Appended = defaultdict(list)
    for number in range(events):
        for job_id in ids:
            began = time.monotonic()
            event = told.append(job_id, f"step {number}", type="metrics", data={"loss": 0.5})
            made[job_id].append((event.id, began))
            time.sleep(max(0.0, began + pause - time.monotonic()))
    return made


def wrong(followed: Sequence[str], arrivals: Arrivals, expected: dict[str, list[str]]) -> int:
    """Followers that did not get their job's events, each once and in order."""
    return sum(
        [event for event, _ in got] != expected[job_id]
        for job_id, got in zip(followed, arrivals, strict=True)
    )


def _lags(followed: Sequence[str], arrivals: Arrivals, appended: Appended) -> list[float]:
    """Seconds, of each event that anybody got."""
    last: dict[tuple[str, str], float] = {}
    for job_id, got in zip(followed, arrivals, strict=True):
        for event, at in got:
            last[job_id, event] = max(at, last.get((job_id, event), 0.0))
    return [
        last[job_id, event] - began
        for job_id, made in appended.items()
        for event, began in made
        if (job_id, event) in last
    ]
