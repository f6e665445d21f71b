"""Paging of listings by id: what follows `after`, and as much of it as is still there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from qcrd.errors import Invalid

T = TypeVar("T")


def skip_through(
    items: Sequence[T], after: str | None, noun: str, get_id: Callable[[T], str]
) -> Sequence[T]:
    """Those behind the one with the id `after`; `Invalid` when there is none."""
    if after is None:
        return items
    for place, item in enumerate(items):
        if get_id(item) == after:
            return items[place + 1 :]
    raise Invalid(f"`after`: there is no {noun} {after[:80]!r}", param="after")


def take_found(
    ids: Iterable[str], limit: int, find: Callable[[str], T | None]
) -> tuple[list[T], bool]:
    """At most `limit` of what `find` finds, and whether there may be more. What it does not find
    was deleted since the listing."""
    found: list[T] = []
    for one in ids:
        if len(found) == limit:
            return found, True
        if (item := find(one)) is not None:
            found.append(item)
    return found, False
