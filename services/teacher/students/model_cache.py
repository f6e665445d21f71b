"""An LRU cache of students in memory: loaded by the first request, the least recently used one
closed to free its slot, but never while it still serves a request."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Generic, Protocol, TypeVar

from services.teacher.students.errors import QueueFull


class Closeable(Protocol):
    async def close(self) -> None:
        """Free its memory; no request uses it any more."""


S = TypeVar("S", bound=Closeable)


class CacheEntry(Generic[S]):
    """A student that is loaded or queued for loading; waiting requests count as its users, so that
    it is not closed before they have been served."""

    def __init__(self, load_task: asyncio.Task[S]) -> None:
        self.load_task = load_task
        self.users = 0
        self.idle = asyncio.Event()
        self.idle.set()

    @contextmanager
    def use(self) -> Iterator[None]:
        self.users += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.users -= 1
            if not self.users:
                self.idle.set()


class ModelCache(Generic[S]):
    """At most `max_models` students at once, loaded one after the other. `waiting` requests, at
    most `max_waiting`, wait for theirs. Belongs to one event loop."""

    def __init__(
        self, load: Callable[[str], Awaitable[S]], *, max_models: int, max_waiting: int
    ) -> None:
        self._load, self._max_models, self._max_waiting = load, max_models, max_waiting
        self._entries: OrderedDict[str, CacheEntry[S]] = OrderedDict()
        self._load_lock = asyncio.Lock()
        self.waiting = 0

    @property
    def loaded_models(self) -> list[str]:
        """Students in memory, the one to be closed next first."""
        return [name for name, entry in self._entries.items() if entry.load_task.done()]

    @asynccontextmanager
    async def acquire(self, name: str) -> AsyncIterator[S]:
        """The student `name`, which stays open until this ends.

        Raises `QueueFull`, and what opening it raises; the next request then tries again.
        """
        entry = self._entries.get(name)
        if self.waiting >= self._max_waiting and not (entry and entry.load_task.done()):
            raise QueueFull("too many requests wait for students to be loaded")
        entry = entry or self._start_loading(name)
        self._entries.move_to_end(name)
        with entry.use():
            yield await self._wait_until_loaded(entry)

    async def _wait_until_loaded(self, entry: CacheEntry[S]) -> S:
        self.waiting += 1
        try:
            # The request that started the load may be cancelled while others wait for it.
            return await asyncio.shield(entry.load_task)
        finally:
            self.waiting -= 1

    def _start_loading(self, name: str) -> CacheEntry[S]:
        load_task = asyncio.create_task(self._load_in_turn(name))
        # Retrieves the exception: all waiting requests may have been cancelled.
        load_task.add_done_callback(lambda task: task.cancelled() or task.exception())
        entry = self._entries[name] = CacheEntry(load_task)
        return entry

    async def _load_in_turn(self, name: str) -> S:
        with ExitStack() as undo:
            undo.callback(self._entries.pop, name)
            async with self._load_lock:
                while len(self.loaded_models) >= self._max_models:
                    await self._evict()
                student = await self._load(name)
            undo.pop_all()
            return student

    async def _evict(self) -> None:
        """Close an idle student, or wait until the least recently used one is idle. New requests
        for it queue for a load of their own meanwhile, so it does become idle."""
        names = self.loaded_models
        idle = (name for name in names if not self._entries[name].users)
        evicted = self._entries.pop(next(idle, names[0]))
        await evicted.idle.wait()
        await evicted.load_task.result().close()

    async def close(self) -> None:
        """Close all; loads in progress are cancelled."""
        for entry in self._entries.values():
            entry.load_task.cancel()
        async with self._load_lock:
            for name in self.loaded_models:
                await self._entries.pop(name).load_task.result().close()
