"""Reasoning traces: what a model wrote before its reply, between `<think>` and `</think>`."""

from __future__ import annotations

import re

from qcrd.method.answer_reading.turns import THOUGHT_END, THOUGHT_START, find_turn

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
CHARACTERS_PER_TOKEN = 4
"""Of English under today's tokenizers."""


def join_reasoning(reasoning: str, reply: str) -> str:
    """One text, as reasoning models write it and as `split_reasoning` reads it."""
    inner = reasoning.strip()
    return f"<think>{inner}</think>\n{reply}" if inner else reply


def split_reasoning(text: str) -> tuple[str, str]:
    """The trace and the reply of an output; the trace is "" where there is none, the reply where
    the model was cut off before it.

    The first block may lack its beginning, which some chat templates write into the prompt.
    """
    turn = find_turn(text)
    if turn is None:
        return _strip_tags(text), ""
    return _strip_tags(text[turn.thought_start : turn.thought_end]), text[turn.start :].strip()


def _strip_tags(thought: str) -> str:
    return THOUGHT_START.sub("", THOUGHT_END.sub("\n", thought)).strip()


def shorten_trace(trace: str, max_tokens: int) -> str:
    """The last whole sentences of `trace` that fit into about `max_tokens`: what a trace comes to
    stands at its end, and a student that is cut off there learns no conclusion."""
    room = max_tokens * CHARACTERS_PER_TOKEN
    if len(trace) <= room:
        return trace
    kept = trace[len(trace) - room :]
    first_end = SENTENCE_END.search(kept)
    return kept[first_end.end() :] if first_end and first_end.end() < len(kept) else kept
