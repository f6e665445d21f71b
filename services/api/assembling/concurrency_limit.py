"""How many requests a teacher gets at once: fewer when it refuses, slowly more when it does not.

Additive increase and multiplicative decrease, as TCP does it (Chiu and Jain, 1989).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Window:
    """At most `size` slots are taken; `size` moves between 1 and `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = float(most)
        self._taken = 0
        self._shrinks = 0
        self._changed = asyncio.Condition()

    @property
    def size(self) -> int:
        return int(self._size)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[int]:
        """Yields a ticket to hand back to `shrink`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._taken < self.size)
            self._taken += 1
        try:
            yield self._shrinks
        finally:
            self._taken -= 1
            await self._tell()

    def grow(self) -> None:
        """A request went well: one slot more for every windowful of them."""
        self._size = min(self._most, self._size + 1 / self._size)

    def shrink(self, ticket: int) -> None:
        """A request was refused: half as many. Those refused at the same time count once."""
        if ticket == self._shrinks:
            self._shrinks += 1
            self._size = max(1.0, self._size / 2)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
