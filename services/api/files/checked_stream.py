"""Upload stream that checks questions while the store reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from services.api.files.questions import RowReader
from services.api.http.errors import PayloadTooLarge


class CheckedStream:
    """The stream that a store reads an upload from. The store pulls, so nothing waits in a queue.

    `read` raises the error in the bytes, or whatever their source raises, before the store
    has the last of them: the object is then never completed.
    """

    def __init__(self, chunks: Iterable[bytes], limit: int) -> None:
        self._chunks = iter(chunks)
        self._limit = limit
        self._row_reader = RowReader()
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._exhausted = False
        self.byte_count = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def line_count(self) -> int:
        return self._row_reader.count

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, all of them if it is negative; fewer only at the end."""
        while not self._exhausted and (size < 0 or len(self._buffer) < size):
            self._read_chunk()
        count = len(self._buffer) if size < 0 else size
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        return data

    def _read_chunk(self) -> None:
        chunk = next(self._chunks, None)
        if chunk is None:
            self._exhausted = True
            for _ in self._row_reader.finish():
                pass
            return
        self.byte_count += len(chunk)
        if self.byte_count > self._limit:
            raise PayloadTooLarge(
                f"`file` has more than {self._limit} bytes, the limit", param="file"
            )
        self._digest.update(chunk)
        for _ in self._row_reader.feed(chunk):
            pass
        self._buffer += chunk
