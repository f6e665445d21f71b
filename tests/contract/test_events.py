from __future__ import annotations

import threading
import time

import pytest

from qcrd.errors import Invalid
from qcrd.runtime.events import Events


def test_events_are_read_back_in_order_as_they_were_appended(events: Events) -> None:
    made = [events.append("ftjob-1", f"step {n}", data={"n": n, "of": [1]}) for n in range(30)]
    made.append(events.append("ftjob-1", "late", level="warn", type="metrics"))
    assert events.read("ftjob-1") == made
    assert [event.id for event in made] == sorted({event.id for event in made})
    assert all(abs(event.created_at - time.time()) < 60 for event in made)


def test_a_reader_goes_on_after_the_last_event_it_has(events: Events) -> None:
    made = [events.append("ftjob-1", str(n)) for n in range(7)]
    first = events.read("ftjob-1", None, 3)
    second = events.read("ftjob-1", first[-1].id, 3)
    third = events.read("ftjob-1", second[-1].id, 3)
    assert first + second + third == made
    assert events.read("ftjob-1", made[-1].id) == []


def test_newest_first_pages_into_the_past(events: Events) -> None:
    made = [events.append("ftjob-1", str(n)) for n in range(5)]
    first = events.read("ftjob-1", None, 2, newest_first=True)
    second = events.read("ftjob-1", first[-1].id, 10, newest_first=True)
    assert first + second == made[::-1]


def test_jobs_do_not_see_each_others_events(events: Events) -> None:
    events.append("ftjob-1", "mine")
    assert events.read("ftjob-2") == []
    events.delete("ftjob-1")
    assert events.read("ftjob-1") == []
    events.delete("ftjob-1")


def test_an_event_id_is_not_needed_to_exist_but_to_be_one(events: Events) -> None:
    made = events.append("ftjob-1", "one")
    assert events.read("ftjob-1", "0000000000000-000000") == [made]
    assert events.read("ftjob-1", "0-0") == [made]
    for wrong in ("", "x", "1", "1-1-1", "$", "(1-1"):
        with pytest.raises(Invalid) as raised:
            events.read("ftjob-1", wrong)
        assert raised.value.param == "after"


def test_a_blocked_read_wakes_up_for_the_next_event(events: Events) -> None:
    first = events.append("ftjob-1", "first")
    later = threading.Timer(0.3, lambda: events.append("ftjob-1", "second"))
    later.start()
    started = time.monotonic()
    found = events.read("ftjob-1", first.id, block_ms=5000)
    assert [event.message for event in found] == ["second"]
    assert time.monotonic() - started < 4
    later.join()


def test_a_blocked_read_gives_up_in_time(events: Events) -> None:
    started = time.monotonic()
    assert events.read("ftjob-1", block_ms=200) == []
    assert 0.15 < time.monotonic() - started < 3
