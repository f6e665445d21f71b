"""How slowly a client may send a body before it counts as one that only holds a connection."""

from __future__ import annotations

FLOOR = 16 << 10
"""Bytes that have to come while a body is waited for as long as `seconds`: 500 bytes a second at
30, which a modem of 1991 could send."""


class Pace:
    """Counts waiting only, so that a slow store is not the client's fault. Times in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waited = 0.0
        self._came = 0

    @property
    def left(self) -> float:
        """How long the next piece may be waited for."""
        return max(0.0, self._seconds - self._waited)

    def came(self, size: int, waited: float) -> None:
        self._waited += waited
        self._came += size
        if self._came >= FLOOR:
            self._waited, self._came = 0.0, 0
