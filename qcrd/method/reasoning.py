"""Reasoning traces: what a model wrote before its reply, between `<think>` and `</think>`."""

from __future__ import annotations

import re

OPEN, CLOSE = "<think>", "</think>"
CLOSED_BLOCK = re.compile(r"<think>(.*?)</think>", re.DOTALL | re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
CHARACTERS_PER_TOKEN = 4
"""Of English under today's tokenizers."""


def join_reasoning(reasoning: str, reply: str) -> str:
    """One text, as reasoning models write it and as `split_reasoning` reads it."""
    inner = reasoning.strip()
    return f"{OPEN}{inner}{CLOSE}\n{reply}" if inner else reply


def split_reasoning(text: str) -> tuple[str, str]:
    """The trace and the reply of an output; the trace is "" where there is none.

    There may be several blocks; the first may lack its beginning, which some chat templates write
    into the prompt, and the last its end, where the model was cut off: then there is no reply.
    """
    traces = CLOSED_BLOCK.findall(text)
    reply = CLOSED_BLOCK.sub("", text)
    before, close, after = reply.partition(CLOSE)
    if close:
        traces, reply = [before, *traces], after
    reply, _, unended = reply.partition(OPEN)
    trace = "\n".join(part.strip() for part in (*traces, unended) if part.strip())
    return trace, reply.strip()


def shorten_trace(trace: str, max_tokens: int) -> str:
    """The last whole sentences of `trace` that fit into about `max_tokens`: what a trace comes to
    stands at its end, and a student that is cut off there learns no conclusion."""
    room = max_tokens * CHARACTERS_PER_TOKEN
    if len(trace) <= room:
        return trace
    kept = trace[len(trace) - room :]
    first_end = SENTENCE_END.search(kept)
    return kept[first_end.end() :] if first_end and first_end.end() < len(kept) else kept
