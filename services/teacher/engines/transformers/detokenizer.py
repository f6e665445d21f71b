"""Ids to text one token at a time, never cutting a character in two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"


class Detokenizer:
    """`decode` turns ids into text. The text of one token depends on its neighbours (spaces,
    multi-token characters), so a short tail of ids is decoded each time and compared.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._start = 0
        self._emitted = 0

    def add(self, token_id: int) -> str:
        """What `token_id` adds; "" while a character is incomplete."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._start : self._emitted])
        after = self._decode(self._ids[self._start :])
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._start, self._emitted = self._emitted, len(self._ids)
        return after[len(before) :]
