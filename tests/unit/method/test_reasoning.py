"""Traces: apart from the reply, and cut to what they come to."""

from __future__ import annotations

import pytest

from qcrd.method.reasoning import join_reasoning, shorten_trace, split_reasoning


@pytest.mark.parametrize(
    ("text", "trace", "reply"),
    [
        ("no trace", "", "no trace"),
        ("<think>so</think>\nreply", "so", "reply"),
        ("<think>a</think><think>b</think> two", "a\nb", "two"),
        ("so</think>reply", "so", "reply"),
        ("<think>so", "so", ""),
        ("<THINK>so</THINK>reply", "so", "reply"),
        ("<think></think>reply", "", "reply"),
    ],
)
def test_traces_are_split_from_replies(text: str, trace: str, reply: str) -> None:
    assert split_reasoning(text) == (trace, reply)


def test_what_is_joined_is_split_again() -> None:
    assert split_reasoning(join_reasoning(" so ", "reply")) == ("so", "reply")
    assert join_reasoning("  ", "reply") == "reply"


def test_a_long_trace_keeps_its_last_whole_sentences() -> None:
    trace = "First. " + "Then this. " * 20 + "So it is eight."
    kept = shorten_trace(trace, max_tokens=10)
    assert len(kept) <= 40
    assert kept == "Then this. Then this. So it is eight."[-len(kept) :]
    assert kept.startswith("Then this.")
    assert shorten_trace("short", 10) == "short"
    assert shorten_trace("x" * 100, 10) == "x" * 40
