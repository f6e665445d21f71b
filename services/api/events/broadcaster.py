"""Event broadcaster: one thread and one Redis connection read the events of all followed jobs.

The thread reads the new events of all followed jobs by one blocking call, puts each into its frame
once, and hands it to the job's followers. A follower is a bounded buffer in its event loop: an idle
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
"""Seconds that one read waits. A newly followed job is in the next one."""
BATCH_SECONDS = 0.02
"""Seconds between two reads that found events: frequent events are read together."""
REDIS_RETRY_SECONDS = 1.0
"""Seconds between two attempts while Redis is unavailable."""
JOB_CHECK_SECONDS = 15.0
"""Seconds between two checks that a followed job exists; a deletion emits no event."""
MAX_JOB_CHECKS = 50
"""Jobs checked between two reads, which must not be delayed for long."""
FINISHED_JOB_SECONDS = 600.0
"""Seconds after a job's end in which its last event may still arrive."""
MAX_PENDING_EVENTS = 256
"""Frames that wait for a slow client; beyond them it reads on from the history."""
HISTORY_PAGE_SIZE = 500
HISTORY_THREADS = 4
"""Threads that read histories for all followers, apart from the routes' own threads."""


class ServerSentEvent(NamedTuple):
    id: str
    encoded: bytes
    is_final: bool


class Subscriber:
    """The frames that wait for one client. All methods run in its event loop.

    `is_lagging`: the history after `cursor` has events that are not in the buffer.
    """

    def __init__(self, job_id: str, cursor: str) -> None:
        self.job_id = job_id
        self.cursor = cursor
        self.is_lagging = True
        self.is_subscribed = False
        self.is_closed = False
        self.loop = asyncio.get_running_loop()
        self._pending: list[ServerSentEvent] = []
        self._wakeup = asyncio.Event()

    def push(self, frames: list[ServerSentEvent]) -> None:
        self._pending += frames
        if len(self._pending) > MAX_PENDING_EVENTS:
            self._pending.clear()
            self.is_lagging = True
        self._wakeup.set()

    def close(self) -> None:
        self.is_closed = True
        self._wakeup.set()

    async def receive(self, seconds: float) -> list[ServerSentEvent]:
        """The waiting frames; waits for one at most `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wakeup.wait()
        except TimeoutError:
            return []
        self._wakeup.clear()
        frames, self._pending = self._pending, []
        return frames


@dataclass
class _Channel:
    """A followed job: the last event its followers were sent, and when it was last checked."""

    cursor: str
    checked_at: float
    subscribers: set[Subscriber] = field(default_factory=set)


class EventBroadcaster:
    """Reads events for all followers. Its thread starts with the first one; `close` ends all."""

    def __init__(
        self,
        jobs: JobStore,
        events: EventLog,
        encode: Callable[[Event], ServerSentEvent],
        *,
        redis_retry_seconds: float = REDIS_RETRY_SECONDS,
        job_check_seconds: float = JOB_CHECK_SECONDS,
    ) -> None:
        self._jobs = jobs
        self._events = events
        self._encode = encode
        self._redis_retry_seconds = redis_retry_seconds
        self._job_check_seconds = job_check_seconds
        self._channels: dict[str, _Channel] = {}
        self._condition = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._history_executor = ThreadPoolExecutor(HISTORY_THREADS, thread_name_prefix="history")

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """The event loop of the app whose clients follow."""
        yield
        self.close()

    async def read_history(self, subscriber: Subscriber) -> list[ServerSentEvent]:
        """At most `HISTORY_PAGE_SIZE` frames after the follower's cursor. `Transient` while Redis
        is unavailable."""

        def read() -> list[ServerSentEvent]:
            events = self._events.read(subscriber.job_id, subscriber.cursor, HISTORY_PAGE_SIZE)
            return [self._encode(event) for event in events]

        if self._closed:
            subscriber.close()
            return []
        return await subscriber.loop.run_in_executor(self._history_executor, read)

    def subscribe(self, subscriber: Subscriber, cursor: str) -> None:
        """Subscribe the follower to events after `cursor`. Other followers may have been sent some
        of them already, so it reads the history once more."""
        with self._condition:
            subscriber.is_subscribed = True
            if self._closed:
                subscriber.close()
                return
            new_channel = _Channel(cursor, time.monotonic())
            self._channels.setdefault(subscriber.job_id, new_channel).subscribers.add(subscriber)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hub", daemon=True)
                self._thread.start()
            self._condition.notify()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        with self._condition:
            channel = self._channels.get(subscriber.job_id)
            if channel is not None:
                channel.subscribers.discard(subscriber)
                if not channel.subscribers:
                    del self._channels[subscriber.job_id]

    def close(self) -> None:
        """End every follower's stream, and soon after the thread; idempotent."""
        with self._condition:
            self._closed = True
            self._condition.notify()
            subscribers = [
                follower for channel in self._channels.values() for follower in channel.subscribers
            ]
        self._history_executor.shutdown(wait=False)
        _call_in_event_loops(subscribers, Subscriber.close)

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        redis_down = False
        while (cursors := self._wait_for_cursors()) is not None:
            has_events: bool | None = None
            with log_exceptions("cannot read new events, event streams wait", quiet=redis_down):
                has_events = self._poll(cursors)
            redis_down = has_events is None
            if redis_down:
                time.sleep(self._redis_retry_seconds)
            elif has_events:
                time.sleep(BATCH_SECONDS)

    def _poll(self, cursors: dict[str, str]) -> bool:
        """Hand new events to the followers; whether there were any."""
        events_by_job = self._events.watch(cursors, BLOCK_MS)
        for job_id, events in events_by_job.items():
            self._publish(job_id, [self._encode(event) for event in events])
        self._close_gone_jobs()
        return bool(events_by_job)

    def _wait_for_cursors(self) -> dict[str, str] | None:
        """The followed jobs' cursors, when there are any; None when the broadcaster is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._channels or self._closed)
            if self._closed:
                return None
            return {job_id: channel.cursor for job_id, channel in self._channels.items()}

    def _publish(self, job_id: str, frames: list[ServerSentEvent]) -> None:
        with self._condition:
            channel = self._channels.get(job_id)
            if channel is None:
                return
            channel.cursor = max(channel.cursor, frames[-1].id)
            subscribers = list(channel.subscribers)
        _call_in_event_loops(subscribers, lambda follower: follower.push(frames))

    def _close_gone_jobs(self) -> None:
        """End the streams of deleted jobs."""
        now = time.monotonic()
        with self._condition:
            due = [
                i
                for i, channel in self._channels.items()
                if now - channel.checked_at > self._job_check_seconds
            ]
            for job_id in due[:MAX_JOB_CHECKS]:
                self._channels[job_id].checked_at = now
        for job_id in due[:MAX_JOB_CHECKS]:
            if self._is_gone(job_id):
                with self._condition:
                    channel = self._channels.pop(job_id, None)
                _call_in_event_loops(channel.subscribers if channel else (), Subscriber.close)

    def _is_gone(self, job_id: str) -> bool:
        try:
            return _is_long_finished(self._jobs.get(job_id), self._jobs.now())
        except NotFound:
            return True


def _is_long_finished(job: Job, now: float) -> bool:
    finished_at = job.finished_at or job.created_at
    return job.status in TERMINAL and now - finished_at > FINISHED_JOB_SECONDS


def _call_in_event_loops(
    subscribers: Iterable[Subscriber], callback: Callable[[Subscriber], None]
) -> None:
    """Call `callback` for each follower in its event loop; each loop is woken once."""
    loops: dict[asyncio.AbstractEventLoop, list[Subscriber]] = defaultdict(list)
    for follower in subscribers:
        loops[follower.loop].append(follower)

    def call_all(subscribers: list[Subscriber]) -> None:
        for follower in subscribers:
            callback(follower)

    for loop, subscribers_of_loop in loops.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(call_all, subscribers_of_loop)
