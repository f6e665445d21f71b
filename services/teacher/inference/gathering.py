"""Gathering of what several requests at once generate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from services.teacher.errors import TeacherError, first_error

T = TypeVar("T")


async def gather_results(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each returns, in order. Raises the first one's `TeacherError`; the others are ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except* TeacherError as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


async def merge_streams(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """What all `streams` give, as it comes, each with its stream's index. The first error ends
    them all, and so does closing this."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    items: asyncio.Queue[tuple[int, T] | asyncio.Task[None]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[T, None]) -> None:
        async with aclosing(stream):
            async for item in stream:
                items.put_nowait((index, item))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    for task in tasks:
        task.add_done_callback(items.put_nowait)
    try:
        unfinished = len(tasks)
        while unfinished:
            found = await items.get()
            if isinstance(found, asyncio.Task):
                found.result()
                unfinished -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
