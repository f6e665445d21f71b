"""Copies of a model that share out an engine's slots.

Copies beside each other use several cores without waiting for each other, as the threads of one
would at every layer: where cores are taken by others a copy is slower, and not all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar


class Copy:
    """`slots` sequences at a time, and the requests that are open for them. Of the event loop
    alone."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._open_prompts: Counter[str] = Counter()

    @property
    def open_requests(self) -> int:
        return self._open_prompts.total()

    def has_open(self, prompt: str) -> bool:
        return prompt in self._open_prompts

    @contextmanager
    def track_request(self, prompt: str) -> Iterator[None]:
        """A request for `prompt` is open here, from its arrival on."""
        self._open_prompts[prompt] += 1
        try:
            yield
        finally:
            self._open_prompts[prompt] -= 1
            if not self._open_prompts[prompt]:
                del self._open_prompts[prompt]


CopyT = TypeVar("CopyT", bound=Copy)


def share_slots(slots: int, count: int) -> list[int]:
    """`slots` shared out over `count` copies, none without a slot."""
    count = min(count, slots)
    return [slots // count + (place < slots % count) for place in range(count)]


def choose_copy(copies: Sequence[CopyT], prompt: str) -> CopyT:
    """The copy that has `prompt` open and a slot free, where it is read once for all its samples;
    else the one with the most free slots."""
    return max(
        copies,
        key=lambda one: (
            one.has_open(prompt) and one.open_requests < one.slots,
            one.slots - one.open_requests,
        ),
    )
