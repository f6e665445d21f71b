"""Follows every job that anybody follows: one thread and one connection for all of them.

The thread reads the new events of all followed jobs by one blocking call, puts each into its frame
once, and hands it to the job's followers. A follower is a bounded box in its event loop: an idle
one costs its connection to the client and nothing else.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from qcrd.errors import NotFound
from qcrd.records.job import Event, Job
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.telemetry import log_exceptions

BLOCK_MS = 500
"""How long one read waits. A job that is followed anew is in the next one."""
GATHER_SECONDS = 0.02
"""Between two reads that found something: events that come fast are read together."""
AWAY_SECONDS = 1.0
"""Between two tries while Redis is away."""
LOOK_SECONDS = 15.0
"""Between two looks at whether a followed job is still there; a deleted one tells no event."""
LOOKS = 50
"""Jobs looked at between two reads, which must not wait long for them."""
FORGOTTEN_SECONDS = 600.0
"""A job that has been over for so long will not have its end told any more."""
BOX = 256
"""Frames that wait for a slow client; beyond them it reads on from the history."""
PAGE = 500
READERS = 4
"""Threads that read histories, for all followers: the routes' own are never taken by them."""


class Frame(NamedTuple):
    id: str
    body: bytes
    last: bool


class Follower:
    """Where the frames of one client wait. All of it is called in its event loop.

    `behind`: the history beyond `cursor` has something that never came, or no more, to the box.
    """

    def __init__(self, job_id: str, cursor: str) -> None:
        self.job_id = job_id
        self.cursor = cursor
        self.behind = True
        self.joined = False
        self.over = False
        self.loop = asyncio.get_running_loop()
        self._frames: list[Frame] = []
        self._news = asyncio.Event()

    def put(self, frames: list[Frame]) -> None:
        self._frames += frames
        if len(self._frames) > BOX:
            self._frames.clear()
            self.behind = True
        self._news.set()

    def end(self) -> None:
        self.over = True
        self._news.set()

    async def take(self, seconds: float) -> list[Frame]:
        """What has come; waits for it, at most so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return []
        self._news.clear()
        frames, self._frames = self._frames, []
        return frames


@dataclass
class _Room:
    """A followed job: up to which event its followers were served, and when it was looked at."""

    cursor: str
    looked_at: float
    followers: set[Follower] = field(default_factory=set)


class Hub:
    """Starts with the first follower. After `close` every follower is over."""

    def __init__(self, jobs: JobStore, events: EventLog, framed: Callable[[Event], Frame]) -> None:
        self._jobs = jobs
        self._events = events
        self._framed = framed
        self._rooms: dict[str, _Room] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="history")

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Of the app whose clients follow."""
        yield
        self.close()

    async def history(self, follower: Follower) -> list[Frame]:
        """At most `PAGE` frames beyond the follower's cursor. `Transient` while Redis is away."""

        def read() -> list[Frame]:
            found = self._events.read(follower.job_id, follower.cursor, PAGE)
            return [self._framed(event) for event in found]

        if self._closed:
            follower.end()
            return []
        return await follower.loop.run_in_executor(self._readers, read)

    def join(self, follower: Follower, cursor: str) -> None:
        """Have what comes beyond event `cursor` put into its box. Others may have been served some
        of that already: the follower reads the history once more, now that it misses nothing."""
        with self._changed:
            follower.joined = True
            if self._closed:
                follower.end()
                return
            fresh = _Room(cursor, time.monotonic())
            self._rooms.setdefault(follower.job_id, fresh).followers.add(follower)
            if self._thread is None:
                self._thread = threading.Thread(target=self._follow, name="hub", daemon=True)
                self._thread.start()
            self._changed.notify()

    def leave(self, follower: Follower) -> None:
        with self._changed:
            room = self._rooms.get(follower.job_id)
            if room is not None:
                room.followers.discard(follower)
                if not room.followers:
                    del self._rooms[follower.job_id]

    def close(self) -> None:
        """Every follower's stream ends, and soon after the thread; idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            left = [follower for room in self._rooms.values() for follower in room.followers]
        self._readers.shutdown(wait=False)
        _each(left, Follower.end)

    # --- the thread ---------------------------------------------------------------------------

    def _follow(self) -> None:
        away = False
        while (cursors := self._awaited()) is not None:
            served: bool | None = None
            with log_exceptions("followers wait", quiet=away):
                served = self._read(cursors)
            away = served is None
            if away:
                time.sleep(AWAY_SECONDS)
            elif served:
                time.sleep(GATHER_SECONDS)

    def _read(self, cursors: dict[str, str]) -> bool:
        """Hand on what is new; whether there was anything."""
        found = self._events.watch(cursors, BLOCK_MS)
        for job_id, events in found.items():
            self._serve(job_id, [self._framed(event) for event in events])
        self._look()
        return bool(found)

    def _awaited(self) -> dict[str, str] | None:
        """The followed jobs' cursors, when there are any; None when the hub is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._rooms or self._closed)
            if self._closed:
                return None
            return {job_id: room.cursor for job_id, room in self._rooms.items()}

    def _serve(self, job_id: str, frames: list[Frame]) -> None:
        with self._changed:
            room = self._rooms.get(job_id)
            if room is None:
                return
            room.cursor = max(room.cursor, frames[-1].id)
            followers = list(room.followers)
        _each(followers, lambda follower: follower.put(frames))

    def _look(self) -> None:
        """End the streams of jobs that are gone."""
        now = time.monotonic()
        with self._changed:
            late = [i for i, room in self._rooms.items() if now - room.looked_at > LOOK_SECONDS]
            for job_id in late[:LOOKS]:
                self._rooms[job_id].looked_at = now
        for job_id in late[:LOOKS]:
            if self._gone(job_id):
                with self._changed:
                    room = self._rooms.pop(job_id, None)
                _each(room.followers if room else (), Follower.end)

    def _gone(self, job_id: str) -> bool:
        try:
            return _forgotten(self._jobs.get(job_id))
        except NotFound:
            return True


def _forgotten(job: Job) -> bool:
    ended = job.finished_at or job.created_at
    return job.status in TERMINAL and time.time() - ended > FORGOTTEN_SECONDS


def _each(followers: Iterable[Follower], do: Callable[[Follower], None]) -> None:
    """`do` for each, in its own event loop, which is woken once for all of its followers."""
    loops: dict[asyncio.AbstractEventLoop, list[Follower]] = defaultdict(list)
    for follower in followers:
        loops[follower.loop].append(follower)

    def all_of(those: list[Follower]) -> None:
        for follower in those:
            do(follower)

    for loop, those in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(all_of, those)
