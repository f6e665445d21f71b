"""Lines out of bytes that come in chunks, one line held at a time."""

from __future__ import annotations

from collections.abc import Iterator

from qcrd.errors import Invalid

MAX_LINE_BYTES = 2 << 20
"""A question with a hundred long teacher outputs is below 1 MiB; more is not a questions file, and
2 MiB of JSON can be 50 MB once they are read."""
MAX_LINES = 1_000_000
"""So that what is kept of each line to find duplicates, 16 to 32 bytes, stays below 35 MB."""


class Lines:
    """(number, line) out of chunks; `Invalid` when a line is too long or there are too many."""

    def __init__(self) -> None:
        self._number = 0
        self._begun = bytearray()

    def feed(self, chunk: bytes) -> Iterator[tuple[int, bytes]]:
        *whole, begun = chunk.split(b"\n")
        for line in whole:
            yield self._ended(line)
        self._grow(begun)

    def end(self) -> Iterator[tuple[int, bytes]]:
        if self._begun:
            yield self._ended(b"")

    def _ended(self, rest: bytes) -> tuple[int, bytes]:
        self._grow(rest)
        line = bytes(self._begun)
        self._begun.clear()
        self._number += 1
        if self._number > MAX_LINES:
            raise wrong(self._number, f"a file has at most {MAX_LINES} lines: split it")
        return self._number, line

    def _grow(self, piece: bytes) -> None:
        if len(self._begun) + len(piece) > MAX_LINE_BYTES:
            number = self._number + 1
            raise wrong(number, f"longer than {MAX_LINE_BYTES} bytes: one question a line")
        self._begun += piece


def wrong(number: int, problem: str, *, code: str = "invalid_line", param: str = "file") -> Invalid:
    return Invalid(f"line {number}: {problem}", param=param, code=code)
