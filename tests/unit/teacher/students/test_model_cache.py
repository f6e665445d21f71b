"""Which students are in memory, with students that are made of nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from services.teacher.students.errors import QueueFull, StudentNotLoadable
from services.teacher.students.model_cache import ModelCache


class Library:
    """Opens students by name; `gate` holds every opening up, `bad` ones fail."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.bad: set[str] = set()
        self.events: list[str] = []
        self.opening = self.most_opening = 0

    async def __call__(self, name: str) -> Book:
        self.opening += 1
        self.most_opening = max(self.opening, self.most_opening)
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if name in self.bad:
                raise StudentNotLoadable(f"{name} is broken")
        finally:
            self.opening -= 1
        self.events.append(f"+{name}")
        return Book(self, name)


class Book:
    def __init__(self, library: Library, name: str) -> None:
        self.library, self.name = library, name

    async def close(self) -> None:
        self.library.events.append(f"-{self.name}")


async def read(shelf: ModelCache[Book], name: str, until: asyncio.Event | None = None) -> str:
    async with shelf.acquire(name) as book:
        if until is not None:
            await until.wait()
        assert f"-{name}" not in book.library.events[-1:]
        return book.name


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 5))


def test_the_one_not_asked_for_longest_leaves() -> None:
    async def work() -> None:
        library = Library()
        shelf: ModelCache[Book] = ModelCache(library, max_models=2, max_waiting=8)
        for name in ("a", "b", "a", "c", "a", "b"):
            assert await read(shelf, name) == name
        assert library.events == ["+a", "+b", "-b", "+c", "-c", "+b"]
        assert shelf.loaded_models == ["a", "b"]
        await shelf.close()
        assert sorted(library.events[-2:]) == ["-a", "-b"]

    run(work())


def test_nobody_is_closed_while_it_answers_and_the_next_one_waits() -> None:
    """Requests that arrive for the one that has to leave wait their turn, or it never would."""

    async def work() -> None:
        library, done = Library(), asyncio.Event()
        shelf: ModelCache[Book] = ModelCache(library, max_models=1, max_waiting=8)
        running = asyncio.create_task(read(shelf, "a", done))
        await settled()
        other = asyncio.create_task(read(shelf, "b"))
        await settled()
        late = asyncio.create_task(read(shelf, "a"))
        await settled()
        assert library.events == ["+a"]
        assert shelf.waiting == 2
        done.set()
        assert await asyncio.gather(running, other, late) == ["a", "b", "a"]
        assert library.events == ["+a", "-a", "+b", "-b", "+a"]

    run(work())


def test_an_idle_one_leaves_before_a_busy_one() -> None:
    async def work() -> None:
        library, done = Library(), asyncio.Event()
        shelf: ModelCache[Book] = ModelCache(library, max_models=2, max_waiting=8)
        busy = asyncio.create_task(read(shelf, "a", done))
        await settled()
        await read(shelf, "b")
        assert await read(shelf, "c") == "c"
        assert library.events == ["+a", "+b", "-b", "+c"]
        done.set()
        await busy

    run(work())


def test_one_is_opened_at_a_time_and_only_once_for_all_who_ask() -> None:
    async def work() -> None:
        library = Library()
        shelf: ModelCache[Book] = ModelCache(library, max_models=3, max_waiting=99)
        names = ["a", "b", "c"] * 10
        assert await asyncio.gather(*(read(shelf, name) for name in names)) == names
        assert library.events == ["+a", "+b", "+c"]
        assert library.most_opening == 1

    run(work())


def test_only_so_many_wait_and_the_open_ones_go_on() -> None:
    async def work() -> None:
        library = Library()
        shelf: ModelCache[Book] = ModelCache(library, max_models=2, max_waiting=2)
        await read(shelf, "a")
        library.gate.clear()
        waiting = [asyncio.create_task(read(shelf, "b")) for _ in range(2)]
        await settled()
        for name in ("b", "c"):
            with pytest.raises(QueueFull) as full:
                await read(shelf, name)
            assert full.value.retry_after
        assert await read(shelf, "a") == "a"
        library.gate.set()
        assert await asyncio.gather(*waiting) == ["b", "b"]
        assert await read(shelf, "c") == "c"

    run(work())


def test_a_failure_is_everybodys_and_is_tried_again() -> None:
    async def work() -> None:
        library = Library()
        shelf: ModelCache[Book] = ModelCache(library, max_models=1, max_waiting=8)
        library.bad = {"a"}
        both = [asyncio.create_task(read(shelf, "a")) for _ in range(2)]
        said = await asyncio.gather(*both, return_exceptions=True)
        assert [type(each) for each in said] == [StudentNotLoadable] * 2
        assert await read(shelf, "b") == "b"
        library.bad = set()
        assert await read(shelf, "a") == "a"
        assert shelf.waiting == 0

    run(work())


def test_who_leaves_while_waiting_spoils_nothing() -> None:
    async def work() -> None:
        library = Library()
        shelf: ModelCache[Book] = ModelCache(library, max_models=1, max_waiting=8)
        library.gate.clear()
        first, second = (asyncio.create_task(read(shelf, "a")) for _ in range(2))
        await settled()
        first.cancel()
        await settled()
        library.gate.set()
        assert await second == "a"
        assert await read(shelf, "b") == "b"
        assert library.events == ["+a", "-a", "+b"]

    run(work())


def test_closing_gives_up_what_is_being_opened() -> None:
    async def work() -> None:
        library = Library()
        shelf: ModelCache[Book] = ModelCache(library, max_models=2, max_waiting=8)
        await read(shelf, "a")
        library.gate.clear()
        waiting = asyncio.create_task(read(shelf, "b"))
        await settled()
        await shelf.close()
        assert library.events == ["+a", "-a"]
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(work())
