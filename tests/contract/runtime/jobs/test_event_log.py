from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from qcrd.errors import Invalid
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import BEFORE_FIRST_EVENT, EventLog, RedisEventLog
from qcrd.runtime.settings import RedisSettings
from tests.conftest import free_ports, kill, valkey
from tests.fakes.lossy_proxy import LossyProxy


def test_events_are_read_back_in_order_as_they_were_appended(events: EventLog) -> None:
    made = [events.append("ftjob-1", f"step {n}", data={"n": n, "of": [1]}) for n in range(30)]
    made.append(events.append("ftjob-1", "late", level="warn", type="metrics"))
    assert events.read("ftjob-1") == made
    assert [event.id for event in made] == sorted({event.id for event in made})
    assert all(abs(event.created_at - time.time()) < 60 for event in made)


def test_a_reader_goes_on_after_the_last_event_it_has(events: EventLog) -> None:
    made = [events.append("ftjob-1", str(n)) for n in range(7)]
    first = events.read("ftjob-1", None, 3)
    second = events.read("ftjob-1", first[-1].id, 3)
    third = events.read("ftjob-1", second[-1].id, 3)
    assert first + second + third == made
    assert events.read("ftjob-1", made[-1].id) == []


def test_newest_first_pages_into_the_past(events: EventLog) -> None:
    made = [events.append("ftjob-1", str(n)) for n in range(5)]
    first = events.read("ftjob-1", None, 2, newest_first=True)
    second = events.read("ftjob-1", first[-1].id, 10, newest_first=True)
    assert first + second == made[::-1]


def test_jobs_do_not_see_each_others_events(events: EventLog) -> None:
    events.append("ftjob-1", "mine")
    assert events.read("ftjob-2") == []
    events.delete("ftjob-1")
    assert events.read("ftjob-1") == []
    events.delete("ftjob-1")


def test_an_event_id_is_not_needed_to_exist_but_to_be_one(events: EventLog) -> None:
    made = events.append("ftjob-1", "one")
    assert events.read("ftjob-1", "0000000000000-000000") == [made]
    assert events.read("ftjob-1", "0-0") == [made]
    for wrong in ("", "x", "1", "1-1-1", "$", "(1-1"):
        with pytest.raises(Invalid) as raised:
            events.read("ftjob-1", wrong)
        assert raised.value.param == "after"


def test_a_blocked_read_wakes_up_for_the_next_event(events: EventLog) -> None:
    first = events.append("ftjob-1", "first")
    later = threading.Timer(0.3, lambda: events.append("ftjob-1", "second"))
    later.start()
    found = events.read("ftjob-1", first.id, block_ms=10_000)
    assert [event.message for event in found] == ["second"]
    later.join()


def test_a_blocked_read_gives_up(events: EventLog) -> None:
    assert events.read("ftjob-1", block_ms=200) == []


def test_one_call_watches_many_jobs_from_where_each_is(events: EventLog) -> None:
    first, second, other = (events.append(f"ftjob-{n}", "x") for n in (1, 1, 2))
    cursors = {"ftjob-1": first.id, "ftjob-2": BEFORE_FIRST_EVENT, "ftjob-3": BEFORE_FIRST_EVENT}
    assert events.watch(cursors, 5000) == {"ftjob-1": [second], "ftjob-2": [other]}
    many = [events.append("ftjob-3", str(n)) for n in range(250)]
    seen, after = [], BEFORE_FIRST_EVENT
    while found := events.watch({"ftjob-3": after}, 1):
        assert len(found["ftjob-3"]) <= 200
        seen += found["ftjob-3"]
        after = seen[-1].id
    assert seen == many


def test_a_watch_wakes_up_for_any_of_its_jobs_and_gives_up(events: EventLog) -> None:
    cursors = {f"ftjob-{n}": BEFORE_FIRST_EVENT for n in range(50)}
    assert events.watch(cursors, 200) == {}
    later = threading.Timer(0.3, lambda: events.append("ftjob-7", "x"))
    later.start()
    assert list(events.watch(cursors, 10_000)) == ["ftjob-7"]
    later.join()


def test_what_is_told_once_is_told_by_whoever_comes_first(events: EventLog) -> None:
    def tell(number: int) -> str:
        return events.append("ftjob-1", f"said by {number}", data={"n": number}, once="end").id

    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(tell, range(24)))
    [told] = events.read("ftjob-1")
    assert ids == {told.id}
    assert events.append("ftjob-1", "another text", level="error", once="end") == told
    other = events.append("ftjob-1", "another name", once="begin")
    elsewhere = events.append("ftjob-2", "another job", once="end")
    assert events.read("ftjob-1") == [told, other]
    assert events.read("ftjob-2") == [elsewhere]
    events.delete("ftjob-1")
    events.append("ftjob-1", "anew", once="end")
    assert [event.message for event in events.read("ftjob-1")] == ["anew"]


def test_an_event_whose_answer_is_lost_is_there_once(redis_settings: RedisSettings) -> None:
    """Every third answer is lost, so the client sends that command again on a new connection."""
    there = urlsplit(redis_settings.url)
    with LossyProxy(there.port or 0, losing=b"EVALSHA", every=3) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}{there.path}"
        events = RedisEventLog(connect_redis(RedisSettings(url=url)))
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(lambda n: events.append("ftjob-1", str(n)), range(60)))
        ends = [events.append("ftjob-1", "end", once="end") for _ in range(6)]
        assert proxy.lost > 10
    found = RedisEventLog(connect_redis(redis_settings)).read("ftjob-1", None, 1000)
    assert found == [*sorted(made, key=lambda event: event.id), ends[0]]
    assert ends == ends[:1] * 6


def test_what_was_told_once_is_remembered_by_a_server_killed_and_restarted(tmp_path: Path) -> None:
    server = valkey(free_ports(1)[0], tmp_path, fsync="always")
    server.start()
    try:
        events = RedisEventLog(
            connect_redis(RedisSettings(url=f"redis://127.0.0.1:{server.port}/0"))
        )
        told = events.append("ftjob-1", "the end", once="end")
        kill(server)
        server.start()
        assert events.append("ftjob-1", "the end again", once="end") == told
        events.append("ftjob-1", "goes on")
        assert [event.message for event in events.read("ftjob-1")] == ["the end", "goes on"]
    finally:
        server.stop()
