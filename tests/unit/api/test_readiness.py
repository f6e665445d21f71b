"""`/ready` answers in bounded time, whatever the parts do."""

from __future__ import annotations

import threading

import pytest

from qcrd.errors import Transient
from services.api.health import ReadinessNote
from tests.unit.api.gateway_client import Here


def value(note: ReadinessNote, part: str) -> float:
    (family,) = note.gauge.collect()
    (found,) = [sample.value for sample in family.samples if sample.labels["part"] == part]
    return found


def refuse() -> None:
    raise Transient("it refuses")


def test_a_part_that_hangs_is_told_and_asked_only_once() -> None:
    note, release, calls = ReadinessNote(seconds=0.05), threading.Event(), []

    def hang() -> None:
        calls.append(1)
        release.wait(60)

    for _ in range(3):
        state = note.ask({"redis": hang, "store": refuse})
        assert state == {"redis": "it has not answered within 0.05 s", "store": "it refuses"}
    assert calls == [1]
    assert (value(note, "redis"), value(note, "store")) == (0.0, 0.0)
    release.set()


def test_what_answers_is_ok_and_what_is_broken_is_no_outage() -> None:
    note = ReadinessNote()
    assert note.ask({"redis": lambda: [], "store": lambda: []}) == {"redis": "ok", "store": "ok"}
    assert (value(note, "redis"), value(note, "store")) == (1.0, 1.0)
    with pytest.raises(ZeroDivisionError):
        note.ask({"redis": lambda: 1 / 0})


def test_a_store_that_is_away_is_not_said_of_redis(here: Here) -> None:
    """The list of all jobs has those of the store too."""

    def away(prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        raise Transient("the object store does not answer")

    here.store.list = away  # type: ignore[method-assign]
    answer = here.client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["redis"] == "ok"
    assert answer.json()["store"] == "the object store does not answer"
