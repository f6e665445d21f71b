"""The objects of a store that this process could not read and left out of lists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from qcrd.errors import QcrdError

log = logging.getLogger(__name__)

MAX_KEPT = 100
READ_THREADS = 8
"""Objects that are looked at again at once."""

IsUnreadable = Callable[[], bool]
"""Whether an object is still there and cannot be read."""


class _Note(NamedTuple):
    reason: str
    is_unreadable: IsUnreadable | None


class UnreadableObjects:
    """For the readiness probe, which names them. Each is logged once, and again after it could be
    read."""

    def __init__(self) -> None:
        self._notes: dict[str, _Note] = {}

    def add(self, key: str, reason: str, is_unreadable: IsUnreadable | None = None) -> None:
        """Note it until `remove`, or until `is_unreadable` says no more to `look_again`."""
        if key not in self._notes and len(self._notes) < MAX_KEPT:
            self._notes[key] = _Note(reason, is_unreadable)
            log.error("left out of lists: %s", reason)

    def remove(self, key: str) -> None:
        """It was read, or is gone. Idempotent."""
        if key in self._notes:  # nearly never, and this is called for each record that is read
            self._notes.pop(key, None)

    def reasons(self) -> dict[str, str]:
        """Why each could not be read, by key."""
        return {key: note.reason for key, note in self._notes.copy().items()}

    def look_again(self) -> None:
        """Forget those that were mended or deleted. One that the store does not answer for stays
        noted."""
        notes = self._notes.copy()
        if not notes:
            return
        with ThreadPoolExecutor(min(READ_THREADS, len(notes))) as pool:
            for key, is_unreadable in zip(notes, pool.map(_look, notes.values()), strict=True):
                if not is_unreadable:
                    self.remove(key)


def _look(note: _Note) -> bool:
    try:
        return note.is_unreadable is None or note.is_unreadable()
    except QcrdError:
        return True
