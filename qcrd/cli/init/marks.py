"""The mark between a solution and its answer, in a column that has both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MARKS = (
    "####",
    "The answer is:",
    "The final answer is:",
    "Final Answer:",
    "Final answer:",
    "Answer:",
    "The answer is",
    "the answer is",
)
"""GSM8K's, MetaMath's, and those of prompts that are copied much."""
MOST = 0.95
MAX_ANSWER_CHARS = 100


def find_mark(values: Sequence[Any]) -> str | None:
    """The first mark that nearly all texts have, behind a solution and before a short answer
    that ends them."""
    texts = [value for value in values if isinstance(value, str) and value.strip()]
    for mark in MARKS:
        marked = sum(_is_marked(text, mark) for text in texts)
        if texts and marked >= MOST * len(texts):
            return mark
    return None


def _is_marked(text: str, mark: str) -> bool:
    solution, found, answer = text.rpartition(mark)
    answer = answer.strip()
    is_short = "\n" not in answer and len(answer) <= MAX_ANSWER_CHARS
    return bool(found and solution.strip() and answer and is_short)
