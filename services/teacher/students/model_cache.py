"""Which students are in memory: opened when first asked for, the one not asked for longest closed
to make room, but never while it still answers somebody."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, Protocol, TypeVar

from services.teacher.students.errors import QueueFull


class Seat(Protocol):
    async def close(self) -> None:
        """Free what it holds; nobody uses it any more."""


S = TypeVar("S", bound=Seat)


class Place(Generic[S]):
    """A student that is open, or will be when its turn has come; requests for it count as users
    while they wait, too, so that it is not closed before they were served."""

    def __init__(self, opening: asyncio.Task[S]) -> None:
        self.opening = opening
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @contextmanager
    def used(self) -> Iterator[None]:
        self.users += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.users -= 1
            if not self.users:
                self.idle.set()


class Shelf(Generic[S]):
    """At most `most` students at once, opened one after the other. `waiting` requests, at most
    `queue`, wait for theirs. Belongs to one event loop."""

    def __init__(self, opener: Callable[[str], Awaitable[S]], *, most: int, queue: int) -> None:
        self._opener, self._most, self._queue = opener, most, queue
        self._places: OrderedDict[str, Place[S]] = OrderedDict()
        self._turn = asyncio.Lock()
        self.waiting = 0

    @property
    def open(self) -> list[str]:
        """Students in memory, the one to be closed next first."""
        return [name for name, place in self._places.items() if place.opening.done()]

    @asynccontextmanager
    async def borrow(self, name: str) -> AsyncIterator[S]:
        """The student `name`, which stays open until this ends.

        Raises `QueueFull`, and what opening it raises; the next request then tries again.
        """
        place = self._places.get(name)
        if self.waiting >= self._queue and not (place and place.opening.done()):
            raise QueueFull("too many requests wait for students to be loaded")
        place = place or self._begin(name)
        self._places.move_to_end(name)
        with place.used():
            yield await self._opened(place)

    async def _opened(self, place: Place[S]) -> S:
        self.waiting += 1
        try:
            # Whoever asked first may leave; the others still want it.
            return await asyncio.shield(place.opening)
        finally:
            self.waiting -= 1

    def _begin(self, name: str) -> Place[S]:
        opening = asyncio.create_task(self._open_in_turn(name))
        # Everybody who asked may have left; a failure then concerns nobody.
        opening.add_done_callback(lambda task: task.cancelled() or task.exception())
        place = self._places[name] = Place(opening)
        return place

    async def _open_in_turn(self, name: str) -> S:
        try:
            async with self._turn:
                while len(self.open) >= self._most:
                    await self._evict()
                return await self._opener(name)
        except BaseException:
            del self._places[name]
            raise

    async def _evict(self) -> None:
        """Close an idle student, or the next one when it is idle; who asks for that one meanwhile
        waits for a turn of its own, so it will be."""
        names = self.open
        idle = (name for name in names if not self._places[name].users)
        victim = self._places.pop(next(idle, names[0]))
        await victim.idle.wait()
        await victim.opening.result().close()

    async def close(self) -> None:
        """Close all; those that are being opened are given up."""
        for place in self._places.values():
            place.opening.cancel()
        async with self._turn:
            for name in self.open:
                await self._places.pop(name).opening.result().close()
