"""The objects of a store that this process could not read and left out of lists."""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

MAX_KEPT = 100


class UnreadableObjects:
    """For the readiness probe, which names them. Each is logged once."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def add(self, key: str, reason: str) -> None:
        if key not in self._reasons and len(self._reasons) < MAX_KEPT:
            self._reasons[key] = reason
            log.error("left out of lists: %s", reason)

    def reasons(self) -> dict[str, str]:
        """Why each could not be read, by key."""
        return dict(self._reasons)
