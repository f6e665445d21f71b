"""Kept answers: one name is answered once, whoever asks and whatever dies. Both twins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qcrd.errors import Conflict
from qcrd.runtime.connection import connect
from qcrd.runtime.settings import RedisSettings
from services.api.answers import (
    LEASE_SECONDS,
    Answer,
    Answers,
    MemoryAnswers,
    RedisAnswers,
    Running,
)

GIVEN = Answer(status=200, content_type="application/json", body='{"a": "\xff"}')


@pytest.fixture(params=["memory", "redis"])
def answers(request: pytest.FixtureRequest) -> Answers:
    if request.param == "memory":
        return MemoryAnswers()
    return RedisAnswers(connect(request.getfixturevalue("redis_settings")))


def test_the_same_request_gets_the_answer_that_was_given(answers: Answers) -> None:
    assert answers.begin("n", "f", 0.0) is None
    answers.finish("n", "f", GIVEN)
    assert answers.begin("n", "f", 1.0) == GIVEN
    assert answers.begin("m", "f", 1.0) is None


def test_another_request_under_the_same_name_is_refused(answers: Answers) -> None:
    answers.begin("n", "f", 0.0)
    for _ in range(2):
        with pytest.raises(Conflict) as raised:
            answers.begin("n", "g", 1.0)
        assert raised.value.code == "idempotency_key_reused"
        answers.finish("n", "f", GIVEN)


def test_while_it_is_answered_others_wait_and_after_a_crash_one_goes_ahead(
    answers: Answers,
) -> None:
    answers.begin("n", "f", 0.0)
    answers.renew("n", 5.0)
    with pytest.raises(Running):
        answers.begin("n", "f", 4.9 + LEASE_SECONDS)
    assert answers.begin("n", "f", 5.1 + LEASE_SECONDS) is None
    answers.forget("n")
    assert answers.begin("n", "other", 0.0) is None


def test_a_late_sign_of_life_does_not_undo_the_answer(answers: Answers) -> None:
    answers.begin("n", "f", 0.0)
    answers.finish("n", "f", GIVEN)
    answers.renew("n", 1.0)
    answers.renew("gone", 1.0)
    assert answers.begin("n", "f", 2.0) == GIVEN
    assert answers.begin("gone", "f", 2.0) is None


def test_of_many_at_once_one_goes_ahead(answers: Answers) -> None:
    def begin(_: int) -> bool:
        try:
            return answers.begin("n", "f", 0.0) is None
        except Running:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(16))) == 1


def test_a_new_name_costs_one_command_to_take_and_one_to_answer(
    redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every POST pays it, and each command waits for the disk."""
    redis = connect(redis_settings)
    sent: list[str] = []
    send = redis.execute_command

    def counted(*arguments: Any, **options: Any) -> Any:
        sent.append(arguments[0])
        return send(*arguments, **options)

    monkeypatch.setattr(redis, "execute_command", counted)
    monkeypatch.setattr(redis, "transaction", lambda *_: pytest.fail("more than one command"))
    answers = RedisAnswers(redis)
    assert answers.begin("n", "f", 0.0) is None
    answers.finish("n", "f", GIVEN)
    assert sent == ["SET", "SET"]
