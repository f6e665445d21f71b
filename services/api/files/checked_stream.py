"""Upload stream that checks JSON lines while the store reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from qcrd.questions.file_summary import FileSummary
from qcrd.questions.rows import RowReader
from qcrd.runtime.data_files.detect import FileFormat, detect_format
from services.api.http.errors import PayloadTooLarge

HEAD_BYTES = 1 << 16
"""Enough for the header line of any table."""


class CheckedStream:
    """The stream that a store reads an upload from. The store pulls, so nothing waits in a queue.

    `read` raises the error in the bytes, or whatever their source raises, before the store
    has the last of them: the object is then never completed. `summary` is None for a file that is
    no JSON lines: those formats are read as a whole, when they are there.
    """

    def __init__(self, chunks: Iterable[bytes], limit: int) -> None:
        self._chunks = iter(chunks)
        self._limit = limit
        self._row_reader = RowReader(allow_unmapped=True)
        self._head = b""
        self.format: FileFormat | None = None
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._exhausted = False
        self.byte_count = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def summary(self) -> FileSummary | None:
        return self._row_reader.summary if self.format is FileFormat.JSON_LINES else None

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
            self._check(b"", is_last=True)
            return
        self.byte_count += len(chunk)
        if self.byte_count > self._limit:
            raise PayloadTooLarge(
                f"`file` has more than {self._limit} bytes, the limit", param="file"
            )
        self._digest.update(chunk)
        self._check(chunk)
        self._buffer += chunk

    def _check(self, chunk: bytes, *, is_last: bool = False) -> None:
        if self.format is None:
            self._head += chunk
            if not is_last and not _tells_format(self._head):
                return
            self.format, chunk = detect_format(self._head), self._head
            self._head = b""
        if self.format is not FileFormat.JSON_LINES:
            return
        for _ in self._row_reader.feed(chunk):
            pass
        if is_last:
            for _ in self._row_reader.finish():
                pass


def _tells_format(head: bytes) -> bool:
    text = head.lstrip()
    return text.startswith((b"{", b"[")) or b"\n" in text or len(head) >= HEAD_BYTES
