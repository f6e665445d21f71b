"""Which line each question was on first, in memory that a million questions do not burst."""

from __future__ import annotations

KEY, LINE = 12, 4
SLOT = KEY + LINE
"""Bytes: a question's id, which is 96 bits, whole, and its line. A dict takes ten times as many."""
FEWEST_SLOTS = 1 << 10
FULL = 2 / 3
"""Share of the slots beyond which their number is doubled: clusters stay a few slots long."""


class Seen:
    """A hash table with open addressing; lines are counted from 1, so 0 marks a free slot."""

    def __init__(self) -> None:
        self._slots = FEWEST_SLOTS
        self._table = bytearray(self._slots * SLOT)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, question_id: str) -> bool:
        key = bytes.fromhex(question_id)
        return self._line(self._place(key)) > 0

    def first(self, question_id: str, line: int) -> int:
        """The line that the question was first on: `line`, unless it is there already."""
        key = bytes.fromhex(question_id)
        place = self._place(key)
        if known := self._line(place):
            return known
        self._table[place : place + SLOT] = key + line.to_bytes(LINE, "big")
        self._count += 1
        if self._count > FULL * self._slots:
            self._double()
        return line

    def _place(self, key: bytes) -> int:
        """Where `key` is, or the free slot where it belongs."""
        place = int.from_bytes(key[:8], "big") % self._slots * SLOT
        while self._line(place) and self._table[place : place + KEY] != key:
            place = (place + SLOT) % len(self._table)
        return place

    def _line(self, place: int) -> int:
        return int.from_bytes(self._table[place + KEY : place + SLOT], "big")

    def _double(self) -> None:
        old = self._table
        self._slots *= 2
        self._table = bytearray(self._slots * SLOT)
        for start in range(0, len(old), SLOT):
            slot = bytes(old[start : start + SLOT])
            if any(slot[KEY:]):
                place = self._place(slot[:KEY])
                self._table[place : place + SLOT] = slot
