"""The limit of concurrent requests to a teacher: halved when it refuses, raised slowly otherwise.

Additive increase and multiplicative decrease, as TCP does it (Chiu and Jain, 1989).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ConcurrencyLimit:
    """At most `size` slots are taken; `size` moves between 1 and `max_size`."""

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._size = float(max_size)
        self._in_use = 0
        self._epoch = 0
        self._condition = asyncio.Condition()

    @property
    def size(self) -> int:
        return int(self._size)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Take a slot; yields the ticket that `shrink` needs."""
        async with self._condition:
            await self._condition.wait_for(lambda: self._in_use < self.size)
            self._in_use += 1
        try:
            yield self._epoch
        finally:
            self._in_use -= 1
            await self._notify_waiters()

    def grow(self) -> None:
        """Count a success: one slot more per `size` successes."""
        self._size = min(self._max_size, self._size + 1 / self._size)

    def shrink(self, epoch: int) -> None:
        """Halve the limit after a refusal. Requests refused at the same time count once."""
        if epoch == self._epoch:
            self._epoch += 1
            self._size = max(1.0, self._size / 2)

    async def _notify_waiters(self) -> None:
        async with self._condition:
            self._condition.notify_all()
