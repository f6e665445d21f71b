"""Clocks that a test sets while the processes that read them run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import unavailable

SHARED_MEMORY = Path("/dev/shm")
CACHE_SECONDS = 1
"""Between two looks at the file: one at each look at the time doubles the time of a training."""


class FakeClock:
    """What the processes with its `variables`, and all that they start, take for the time of day:
    that of the machine and an offset. Their monotonic clocks are the machine's."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0.0)

    def set(self, offset: float) -> None:
        """In seconds; within `CACHE_SECONDS` every look at the time has it."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(f"{offset:+.0f}\n")
        partial.rename(self._file)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(find_library()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": str(CACHE_SECONDS),
            "NO_FAKE_STAT": "1",
        }


def find_library() -> Path:
    try:
        import libfaketime
    except ImportError:
        unavailable("libfaketime")
    folder = Path(libfaketime.__file__).parent
    found = sorted(folder.rglob("libfaketime.so.1"))
    if not found:
        unavailable("libfaketime for Linux")
    return found[0]


@contextmanager
def swept_shared_memory() -> Iterator[None]:
    """Remove what the library has left of processes that were killed."""
    try:
        yield
    finally:
        for path in SHARED_MEMORY.glob("*faketime_*"):
            pid = path.name.rpartition("_")[2]
            if pid.isdigit() and not psutil.pid_exists(int(pid)):
                os.unlink(path)
