"""The limit of samples in flight at a teacher: halved when it refuses, raised slowly otherwise.

Additive increase and multiplicative decrease, as TCP does it (Chiu and Jain, 1989).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class ConcurrencyLimit:
    """At most `size` slots are taken; `size` moves between 1 and `max_size`. A request takes one
    for each of its samples, and may exceed the size alone."""

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
    async def slot(self, count_samples: Callable[[], int] = lambda: 1) -> AsyncIterator[int]:
        """Take so many slots as the request wants when there is room; yields the ticket that
        `shrink` needs."""
        async with self._condition:
            await self._condition.wait_for(lambda: self._has_room(count_samples()))
            samples = count_samples()
            self._in_use += samples
        try:
            yield self._epoch
        finally:
            self._in_use -= samples
            await self._notify_waiters()

    def _has_room(self, samples: int) -> bool:
        return not self._in_use or self._in_use + samples <= self.size

    def grow(self, samples: int = 1) -> None:
        """Count samples that came: one slot more per `size` of them."""
        self._size = min(self._max_size, self._size + samples / self._size)

    def shrink(self, epoch: int) -> None:
        """Halve the limit after a refusal. Requests refused at the same time count once."""
        if epoch == self._epoch:
            self._epoch += 1
            self._size = max(1.0, self._size / 2)

    async def _notify_waiters(self) -> None:
        async with self._condition:
            self._condition.notify_all()
