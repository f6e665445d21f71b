"""What `benchmarks/teachers.py` makes of its figures, and that it asks as a job does."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks import teachers
from benchmarks.teacher import chat_path
from benchmarks.teacher.load import PACED, fake_upstream_app
from tests import serving

CASE = chat_path.Case("x", "fake", PACED, requests=5, at_once=2, samples=3, tokens=(2, 4))


def test_the_ratio_is_of_pairs_with_its_interval() -> None:
    """98 / 100 and 99 / 110: .98 and .9, their mean .94; with one degree of freedom t is 12.71, and
    .04 · 12.71 = .508 to each side."""
    found = chat_path.summarize_rates([100.0, 110.0], [98.0, 99.0])
    assert found["ratio"] == 0.94
    assert found["low"] == pytest.approx(0.94 - 0.5082, abs=1e-3)
    assert found["high"] == pytest.approx(0.94 + 0.5082, abs=1e-3)
    assert found["ratios"] == [0.98, 0.9]


def test_limits_are_judged_where_their_part_was_measured() -> None:
    cost = {"prompt_tokens_per_rationale": 160.0, "unparseable_share": 0.021}
    assert teachers.judge({"cost": cost, "paced": {"ratio": 0.97}, "fast": {"ratio": 0.1}}) == {
        "cost.prompt_tokens_per_rationale": True,
        "cost.unparseable_share": False,
        "paced.ratio": True,
    }


def test_bursts_differ_in_their_words_and_not_in_their_lengths() -> None:
    first, second = chat_path.make_chats(CASE, 0, 7), chat_path.make_chats(CASE, 1, 7)
    assert [body["max_tokens"] for body in first] == [body["max_tokens"] for body in second]
    words = {body["messages"][0]["content"] for body in (*first, *second)}
    assert len(words) == 10
    assert {body["n"] for body in first} == {3}


def test_every_token_of_streams_side_by_side_is_counted_once() -> None:
    """Of each of its streams the fake upstream writes a hundred tokens a second at most."""
    bodies = chat_path.make_chats(CASE, 0, 7)
    with serving.app(fake_upstream_app) as url:
        sent = asyncio.run(chat_path.send_chats(url, bodies, at_once=2))
    assert sent.tokens == 3 * sum(body["max_tokens"] for body in bodies)
    assert sent.rate <= 2 * 3 * 100
