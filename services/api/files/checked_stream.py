"""Bytes on their way into the store: counted, digested and checked as they pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from services.api.files.questions import RowReader
from services.api.http.errors import TooLarge


class Arriving:
    """What a store reads an upload from. The store pulls, so nothing waits in a queue.

    `read` raises what is wrong with the bytes, or whatever their source raises, before the store
    has the last of them: the object is then never completed.
    """

    def __init__(self, chunks: Iterable[bytes], limit: int) -> None:
        self._chunks = iter(chunks)
        self._limit = limit
        self._rows = RowReader()
        self._whole = hashlib.sha256()
        self._held = bytearray()
        self._ended = False
        self.bytes = 0

    @property
    def sha256(self) -> str:
        return self._whole.hexdigest()

    @property
    def lines(self) -> int:
        return self._rows.count

    def read(self, size: int = -1) -> bytes:
        """`size` bytes, all that there are if it is negative; fewer only at the end."""
        while not self._ended and (size < 0 or len(self._held) < size):
            self._take()
        count = len(self._held) if size < 0 else size
        taken = bytes(memoryview(self._held)[:count])
        del self._held[:count]
        return taken

    def _take(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._ended = True
            for _ in self._rows.end():
                pass
            return
        self.bytes += len(chunk)
        if self.bytes > self._limit:
            raise TooLarge(f"`file` has more than {self._limit} bytes, the limit", param="file")
        self._whole.update(chunk)
        for _ in self._rows.feed(chunk):
            pass
        self._held += chunk
