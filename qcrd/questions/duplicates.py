"""An index of each question's first line, compact enough for a million questions."""

from __future__ import annotations

from typing import Protocol

KEY_BYTES, LINE_BYTES, CHECKSUM_BYTES = 12, 4, 4
CHECKSUM_START = KEY_BYTES + LINE_BYTES
SLOT_BYTES = CHECKSUM_START + CHECKSUM_BYTES
"""Bytes: a question's id, which is 96 bits, whole, its line, and a checksum of its label. A dict
takes ten times as many."""
MIN_SLOTS = 1 << 10
MAX_LOAD_FACTOR = 2 / 3
"""Share of the slots beyond which their number is doubled: clusters stay a few slots long."""


class FirstLines(Protocol):
    """Each question's first line, and a checksum of the label that it came with."""

    def setdefault(self, question_id: str, line: int, checksum: int = 0) -> int:
        """The question's first line: `line`, unless there was an earlier one."""

    def has_checksum(self, question_id: str, checksum: int) -> bool:
        """Whether the question's first line came with this checksum."""


class DuplicateIndex:
    """A hash table with open addressing; lines are counted from 1, so 0 marks a free slot."""

    def __init__(self) -> None:
        self._slot_count = MIN_SLOTS
        self._table = bytearray(self._slot_count * SLOT_BYTES)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, question_id: str) -> bool:
        key = bytes.fromhex(question_id)
        return self._read_line(self._find_slot(key)) > 0

    def has_checksum(self, question_id: str, checksum: int) -> bool:
        """Whether the question's first line came with this checksum."""
        start = self._find_slot(bytes.fromhex(question_id)) + CHECKSUM_START
        return self._table[start : start + CHECKSUM_BYTES] == checksum.to_bytes(CHECKSUM_BYTES)

    def setdefault(self, question_id: str, line: int, checksum: int = 0) -> int:
        """The question's first line: `line`, unless the index has an earlier one."""
        key = bytes.fromhex(question_id)
        offset = self._find_slot(key)
        if existing_line := self._read_line(offset):
            return existing_line
        slot = key + line.to_bytes(LINE_BYTES) + checksum.to_bytes(CHECKSUM_BYTES)
        self._table[offset : offset + SLOT_BYTES] = slot
        self._count += 1
        if self._count > MAX_LOAD_FACTOR * self._slot_count:
            self._grow()
        return line

    def _find_slot(self, key: bytes) -> int:
        """The slot of `key`, or the free slot where it belongs."""
        offset = int.from_bytes(key[:8], "big") % self._slot_count * SLOT_BYTES
        while self._read_line(offset) and self._table[offset : offset + KEY_BYTES] != key:
            offset = (offset + SLOT_BYTES) % len(self._table)
        return offset

    def _read_line(self, offset: int) -> int:
        return int.from_bytes(self._table[offset + KEY_BYTES : offset + CHECKSUM_START], "big")

    def _grow(self) -> None:
        old = self._table
        self._slot_count *= 2
        self._table = bytearray(self._slot_count * SLOT_BYTES)
        for start in range(0, len(old), SLOT_BYTES):
            slot = bytes(old[start : start + SLOT_BYTES])
            if any(slot[KEY_BYTES:CHECKSUM_START]):
                offset = self._find_slot(slot[:KEY_BYTES])
                self._table[offset : offset + SLOT_BYTES] = slot
