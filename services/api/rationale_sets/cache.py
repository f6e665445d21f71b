"""An LRU cache of immutable objects, limited in bytes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol, TypeVar

from cachetools import LRUCache


class Sized(Protocol):
    @property
    def nbytes(self) -> int:
        """Bytes it takes in memory."""


V = TypeVar("V", bound=Sized)


def make_cache(max_bytes: int) -> LRUCache[Hashable, V]:
    """The least recently used go when all together weigh more than `max_bytes` bytes, but never the
    newest: it is in use anyhow, so one that is larger than the cache counts as all of it."""
    return LRUCache(max_bytes, getsizeof=lambda value: min(value.nbytes, max_bytes))
