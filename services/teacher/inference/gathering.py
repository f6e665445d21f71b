"""Gathering of what several requests at once generate."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

from services.teacher.errors import TeacherError

T = TypeVar("T")


async def gather_results(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each returns, in order. Raises the first one's `TeacherError`; the others are ended."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except* TeacherError as errors:
        raise _find_first_error(errors) from None
    return [task.result() for task in tasks]


def _find_first_error(errors: ExceptionGroup[TeacherError]) -> TeacherError:
    inner = errors.exceptions[0]
    return _find_first_error(inner) if isinstance(inner, ExceptionGroup) else inner
