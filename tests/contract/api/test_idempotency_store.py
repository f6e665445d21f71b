"""Kept answers: one name is answered once, whoever asks and whatever dies. Both twins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from qcrd.errors import Conflict
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings
from services.api.http.idempotency_store import (
    LEASE_SECONDS,
    IdempotencyStore,
    MemoryIdempotencyStore,
    RedisIdempotencyStore,
    RequestInProgress,
    StoredResponse,
)

GIVEN = StoredResponse(status=200, content_type="application/json", body='{"a": "\xff"}')


@pytest.fixture(params=["memory", "redis"])
def answers(request: pytest.FixtureRequest) -> IdempotencyStore:
    if request.param == "memory":
        return MemoryIdempotencyStore()
    return RedisIdempotencyStore(connect_redis(request.getfixturevalue("redis_settings")))


def test_the_same_request_gets_the_answer_that_was_given(answers: IdempotencyStore) -> None:
    entry = answers.begin("n", "f", "one", 0.0)
    assert entry.answer is None
    answers.finish("n", entry, GIVEN)
    assert answers.begin("n", "f", "two", 1.0).answer == GIVEN
    assert answers.begin("m", "f", "two", 1.0).answer is None


def test_another_request_under_the_same_name_is_refused(answers: IdempotencyStore) -> None:
    entry = answers.begin("n", "f", "one", 0.0)
    for _ in range(2):
        with pytest.raises(Conflict) as raised:
            answers.begin("n", "g", "two", 1.0)
        assert raised.value.code == "idempotency_key_reused"
        answers.finish("n", entry, GIVEN)


def test_while_it_is_answered_others_wait_and_after_a_crash_one_goes_ahead_with_its_seed(
    answers: IdempotencyStore,
) -> None:
    first = answers.begin("n", "f", "one", 0.0)
    answers.renew("n", "one", 5.0)
    with pytest.raises(RequestInProgress):
        answers.begin("n", "f", "two", 4.9 + LEASE_SECONDS)
    second = answers.begin("n", "f", "two", 5.1 + LEASE_SECONDS)
    assert (second.answer, second.seed, second.holder) == (None, first.seed, "two")


def test_a_holder_whose_command_was_sent_again_meets_its_own_entry(
    answers: IdempotencyStore,
) -> None:
    first = answers.begin("n", "f", "one", 0.0)
    assert answers.begin("n", "f", "one", 1.0).seed == first.seed


def test_who_lost_the_name_neither_ends_nor_frees_it(answers: IdempotencyStore) -> None:
    slow = answers.begin("n", "f", "slow", 0.0)
    quick = answers.begin("n", "f", "quick", 1.0 + LEASE_SECONDS)
    answers.finish("n", slow, GIVEN.model_copy(update={"body": "of the slow one"}))
    answers.release("n", "slow", forget=True)
    answers.finish("n", quick, GIVEN)
    answers.release("n", "quick", forget=True)
    assert answers.begin("n", "f", "three", 2.0 + LEASE_SECONDS).answer == GIVEN


def test_a_name_is_released_to_the_same_request_or_to_any(answers: IdempotencyStore) -> None:
    first = answers.begin("n", "f", "one", 0.0)
    answers.release("n", "one", forget=False)
    again = answers.begin("n", "f", "two", 0.1)
    assert again.seed == first.seed
    answers.release("n", "two", forget=True)
    assert answers.begin("n", "other", "three", 0.2).seed != first.seed


def test_a_late_sign_of_life_does_not_undo_the_answer(answers: IdempotencyStore) -> None:
    entry = answers.begin("n", "f", "one", 0.0)
    answers.finish("n", entry, GIVEN)
    answers.renew("n", "one", 1.0)
    answers.renew("gone", "one", 1.0)
    assert answers.begin("n", "f", "two", 2.0).answer == GIVEN
    assert answers.begin("gone", "f", "two", 2.0).answer is None


def test_of_many_at_once_one_goes_ahead(answers: IdempotencyStore) -> None:
    def begin(number: int) -> bool:
        try:
            return answers.begin("n", "f", f"{number}", 0.0).answer is None
        except RequestInProgress:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(begin, range(16))) == 1


def test_a_new_name_costs_one_command_to_take_and_one_to_answer(
    redis_settings: RedisSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every POST pays it, and each command waits for the disk."""
    redis = connect_redis(redis_settings)
    answers = RedisIdempotencyStore(redis)
    answers.finish("x", answers.begin("x", "f", "one", 0.0), GIVEN)  # the server has the script now
    sent: list[str] = []
    send = redis.execute_command

    def counted(*arguments: Any, **options: Any) -> Any:
        sent.append(arguments[0])
        return send(*arguments, **options)

    monkeypatch.setattr(redis, "execute_command", counted)
    monkeypatch.setattr(redis, "transaction", lambda *_: pytest.fail("more than one command"))
    answers.finish("n", answers.begin("n", "f", "one", 0.0), GIVEN)
    assert sent == ["SET", "EVALSHA"]
