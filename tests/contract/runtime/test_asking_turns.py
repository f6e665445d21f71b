"""Turns: one job at a time asks for the same, and who is gone keeps nobody waiting."""

from __future__ import annotations

from qcrd.runtime import redis_keys
from qcrd.runtime.redis.asking_turns import TURN_SECONDS, AskingTurns, RedisAskingTurns
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings


def test_the_first_has_it_until_it_gives_it_back(turns: AskingTurns) -> None:
    assert turns.take("sums", "a") == "a"
    assert turns.take("sums", "b") == "a"
    assert turns.take("sums", "a") == "a"
    assert turns.take("others", "b") == "b"
    turns.give_back("sums", "b")
    assert turns.take("sums", "b") == "a"
    turns.give_back("sums", "a")
    assert turns.take("sums", "b") == "b"


def test_who_is_gone_is_replaced_by_one_of_two(turns: AskingTurns) -> None:
    turns.take("sums", "gone")
    assert turns.take("sums", "a", instead_of="gone") == "a"
    assert turns.take("sums", "b", instead_of="gone") == "a"


def test_in_redis_a_turn_expires_and_a_damaged_one_is_replaced(
    redis_settings: RedisSettings,
) -> None:
    redis = connect_redis(redis_settings)
    turns, key = RedisAskingTurns(redis), redis_keys.asking_turn_key("sums")
    redis.rpush(key, "no", "turn")
    turns.give_back("sums", "a")
    assert turns.take("sums", "a") == "a"
    assert 0 < redis.ttl(key) <= TURN_SECONDS
    turns.give_back("sums", "a")
    assert not redis.exists(key)
    redis.set(key, b"\xff\xfe no id")
    assert turns.take("sums", "a") == "a"
