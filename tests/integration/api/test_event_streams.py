"""Followers of events through the hub: nothing lost or doubled, whoever is slow, late or away."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from qcrd.errors import Invalid
from qcrd.records.job import Job, JobStatus
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import BEFORE_FIRST_EVENT, EventLog, RedisEventLog
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import RedisSettings
from services.api.events import broadcaster
from services.api.events.broadcaster import EventBroadcaster
from services.api.events.sse import encode_event, resolve_cursor, stream_events
from tests.conftest import free_ports, kill, valkey

JOB = "ftjob-" + "a" * 24


def a_job(job_id: str = JOB, **fields: Any) -> Job:
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    return Job(id=job_id, spec=spec, created_at=time.time(), **fields)


@pytest.fixture
def events() -> MemoryEventLog:
    return MemoryEventLog()


@pytest.fixture
def jobs() -> MemoryJobStore:
    jobs = MemoryJobStore()
    jobs.create(a_job())
    return jobs


@pytest.fixture
def here(jobs: JobStore, events: EventLog) -> Iterator[EventBroadcaster]:
    broadcaster = EventBroadcaster(jobs, events, encode_event)
    yield broadcaster
    broadcaster.close()


def told(frame: bytes) -> str:
    """The message in a frame; nothing for a comment."""
    data = [line for line in frame.decode().splitlines() if line.startswith("data: ")]
    return str(json.loads(data[0].removeprefix("data: "))["message"]) if data else ""


async def messages(following: AsyncIterator[bytes]) -> list[str]:
    return [message async for frame in following if (message := told(frame))]


async def until(look: Any) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def end(events: EventLog, job_id: str = JOB) -> None:
    events.append(job_id, "end", data={"status": "succeeded"}, once="end")


def test_history_and_what_comes_live_are_one_stream_that_ends(
    here: EventBroadcaster, events: EventLog
) -> None:
    seen = events.append(JOB, "seen before")
    events.append(JOB, "history")

    async def follow_it() -> list[str]:
        following = asyncio.create_task(messages(stream_events(here, JOB, seen.id)))
        await until(lambda: here._channels)
        events.append(JOB, "live")
        end(events)
        events.append(JOB, "what became of the webhook")
        return await following

    assert asyncio.run(follow_it()) == ["history", "live", "end"]
    assert not here._channels


def test_a_history_longer_than_a_page_comes_whole(here: EventBroadcaster, events: EventLog) -> None:
    for number in range(1200):
        events.append(JOB, str(number))
    end(events)
    assert asyncio.run(messages(stream_events(here, JOB, BEFORE_FIRST_EVENT))) == [
        *map(str, range(1200)),
        "end",
    ]


def history_reads(here: EventBroadcaster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The jobs whose history was read, as the reads end."""
    looks: list[str] = []
    read = here.read_history

    async def noted(subscriber: broadcaster.Subscriber) -> list[broadcaster.ServerSentEvent]:
        frames = await read(subscriber)
        looks.append(subscriber.job_id)
        return frames

    monkeypatch.setattr(here, "read_history", noted)
    return looks


def test_an_event_is_put_into_its_frame_once_for_all_followers(
    events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def counted(event: Any) -> broadcaster.ServerSentEvent:
        made.append(event.id)
        return encode_event(event)

    jobs = MemoryJobStore()
    jobs.create(a_job())
    here = EventBroadcaster(jobs, events, counted)
    looks = history_reads(here, monkeypatch)

    async def follow_it() -> None:
        tasks = [
            asyncio.create_task(messages(stream_events(here, JOB, BEFORE_FIRST_EVENT)))
            for _ in range(100)
        ]
        # Each looks at the history before it is subscribed, and once more after that.
        await until(lambda: len(looks) == 200)
        events.append(JOB, "one")
        end(events)
        assert await asyncio.gather(*tasks) == [["one", "end"]] * 100

    asyncio.run(follow_it())
    here.close()
    assert len(made) == 2


def test_a_slow_follower_reads_on_from_the_history_and_its_box_stays_small(
    here: EventBroadcaster, events: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = history_reads(here, monkeypatch)

    async def follow_it() -> None:
        following = stream_events(here, JOB, BEFORE_FIRST_EVENT)
        events.append(JOB, "0")
        got = [told(await anext(following))]
        # The next one is asked for, and then nothing until 2,000 more have come.
        task = asyncio.create_task(anext(following))
        await until(lambda: len(looks) == 2)
        events.append(JOB, "1")
        got.append(told(await task))
        [follower] = here._channels[JOB].subscribers
        for number in range(2, 2000):
            events.append(JOB, str(number))
            if number % 100 == 0:
                await asyncio.sleep(0.03)
                assert len(follower._pending) <= broadcaster.MAX_PENDING_EVENTS
        await until(lambda: follower.is_lagging)
        end(events)
        got += await messages(following)
        assert got == [*map(str, range(2000)), "end"]

    asyncio.run(follow_it())


def test_followers_that_reconnect_while_events_come_fast_lose_and_double_nothing(
    redis_settings: RedisSettings,
) -> None:
    redis = connect_redis(redis_settings)
    events, jobs, count = RedisEventLog(redis), RedisJobStore(redis), 2000
    jobs.create(a_job())
    here = EventBroadcaster(jobs, events, encode_event)

    def write() -> None:
        for number in range(count):
            events.append(JOB, str(number))
        end(events)

    async def reconnecting(patience: int) -> list[str]:
        """Leaves after `patience` events and comes again with the last id it has."""
        got: list[str] = []
        cursor = BEFORE_FIRST_EVENT
        while not got or got[-1] != "end":
            following, taken = stream_events(here, JOB, cursor), 0
            async for frame in following:
                cursor = frame.split(b"\n")[0].removeprefix(b"id: ").decode()
                got.append(told(frame))
                taken += 1
                if taken == patience:
                    break
            await following.aclose()  # type: ignore[attr-defined]
        return got

    async def follow_it() -> list[list[str]]:
        writer = threading.Thread(target=write)
        writer.start()
        followers = [reconnecting(patience) for patience in (13, 50, 200, 10_000)]
        return await asyncio.gather(*followers)

    wanted = [*map(str, range(count)), "end"]
    assert all(got == wanted for got in asyncio.run(follow_it()))
    here.close()


def test_followers_stay_through_a_server_killed_and_restarted_on_its_data(tmp_path: Path) -> None:
    server = valkey(free_ports(1)[0], tmp_path, fsync="always")
    server.start()
    settings = RedisSettings(url=f"redis://127.0.0.1:{server.port}/0")
    events = RedisEventLog(connect_redis(settings))
    jobs = RedisJobStore(connect_redis(settings))
    jobs.create(a_job())
    here = EventBroadcaster(
        jobs, RedisEventLog(connect_redis(settings, retry_seconds=0.2)), encode_event
    )
    comments: Counter[int] = Counter()

    async def noted(number: int) -> list[str]:
        got = []
        async for frame in stream_events(here, JOB, BEFORE_FIRST_EVENT, keepalive_seconds=0.5):
            got.append(told(frame))
            if not got[-1]:
                comments[number] += 1
        return [message for message in got if message]

    async def follow_it() -> list[list[str]]:
        events.append(JOB, "before")
        tasks = [asyncio.create_task(noted(number)) for number in range(50)]
        await until(lambda: here._channels and len(here._channels[JOB].subscribers) == 50)
        kill(server)
        late = asyncio.create_task(noted(50))  # comes while the server is away
        comments.clear()
        await until(lambda: len(comments) == 51 and min(comments.values()) >= 2)
        assert not any(task.done() for task in (*tasks, late))
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(events.append, JOB, "after")
        await asyncio.to_thread(end, events)
        return await asyncio.gather(*tasks, late)

    try:
        assert asyncio.run(follow_it()) == [["before", "after", "end"]] * 51
    finally:
        here.close()
        server.stop()


def test_an_idle_follower_hears_a_comment(here: EventBroadcaster) -> None:
    async def follow_it() -> list[bytes]:
        following = stream_events(here, JOB, BEFORE_FIRST_EVENT, keepalive_seconds=0.2)
        return [await anext(following) for _ in range(3)]

    assert asyncio.run(follow_it()) == [b":\n\n"] * 3


@pytest.mark.parametrize("gone", ["deleted", "over long ago"])
def test_a_stream_ends_when_nothing_will_be_told_any_more(
    gone: str,
    jobs: MemoryJobStore,
    events: EventLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = EventBroadcaster(jobs, events, encode_event, job_check_seconds=0.1)
    events.append(JOB, "something")
    checks, get = [], jobs.get

    def checked(job_id: str) -> Job:
        checks.append(job_id)
        return get(job_id)

    monkeypatch.setattr(jobs, "get", checked)

    async def follow_it() -> list[str]:
        following = asyncio.create_task(messages(stream_events(here, JOB, BEFORE_FIRST_EVENT)))
        await until(lambda: len(checks) >= 3)
        assert not following.done()
        jobs.delete(JOB)
        if gone == "deleted":
            events.delete(JOB)
        else:
            jobs.create(a_job(status=JobStatus.FAILED, finished_at=time.time() - 601))
        return await asyncio.wait_for(following, 60)

    try:
        assert asyncio.run(follow_it()) == ["something"]
        assert not here._channels
    finally:
        here.close()


def test_closing_ends_every_follower_and_the_thread(
    here: EventBroadcaster, events: EventLog
) -> None:
    events.append(JOB, "something")

    async def follow_it() -> None:
        tasks = [
            asyncio.create_task(messages(stream_events(here, JOB, BEFORE_FIRST_EVENT)))
            for _ in range(20)
        ]
        await until(lambda: here._channels and len(here._channels[JOB].subscribers) == 20)
        here.close()
        got = await asyncio.wait_for(asyncio.gather(*tasks), 60)
        assert got == [["something"]] * 20
        assert await messages(stream_events(here, JOB, BEFORE_FIRST_EVENT)) == []

    asyncio.run(follow_it())
    assert here._thread is not None
    here._thread.join(60)
    assert not here._thread.is_alive()


def test_a_client_that_goes_away_is_forgotten(here: EventBroadcaster) -> None:
    async def follow_it() -> None:
        following = asyncio.create_task(messages(stream_events(here, JOB, BEFORE_FIRST_EVENT)))
        await until(lambda: here._channels)
        following.cancel()
        await asyncio.wait([following])
        assert not here._channels

    asyncio.run(follow_it())


def test_where_to_begin_is_read_before_the_answer_begins() -> None:
    assert resolve_cursor(None, None) == resolve_cursor("", "") == BEFORE_FIRST_EVENT
    assert resolve_cursor("5-1", None) == "0000000000005-000001"
    assert resolve_cursor("5-1", "0000000000006-000002") == "0000000000006-000002"
    for after, header, param in (("x", None, "after"), ("5-1", "$", "Last-Event-ID")):
        with pytest.raises(Invalid, match=param) as raised:
            resolve_cursor(after, header)
        assert raised.value.param == param


def test_what_nobody_foresaw_ends_no_stream(
    jobs: JobStore, events: MemoryEventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = ["an event that cannot be read"]
    watch = events.watch

    def watch_or_break(cursors: Any, block_ms: int) -> Any:
        if broken:
            raise ValueError(broken.pop())
        return watch(cursors, block_ms)

    monkeypatch.setattr(events, "watch", watch_or_break)
    here = EventBroadcaster(jobs, events, encode_event, redis_retry_seconds=0.05)
    looks = history_reads(here, monkeypatch)

    async def follow_it() -> list[str]:
        following = asyncio.create_task(messages(stream_events(here, JOB, BEFORE_FIRST_EVENT)))
        await until(lambda: not broken and len(looks) == 2)
        end(events)
        return await asyncio.wait_for(following, 60)

    try:
        assert asyncio.run(follow_it()) == ["end"]
    finally:
        here.close()
