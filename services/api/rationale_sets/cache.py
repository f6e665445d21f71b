"""An LRU cache of immutable objects, limited in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class LRUCache(Generic[V]):
    """The least recently used go when all together weigh more than `max_bytes` bytes, but never the
    newest, which is in use."""

    def __init__(self, max_bytes: int, get_size: Callable[[V], int]) -> None:
        self._max_bytes = max_bytes
        self._get_size = get_size
        self._entries: OrderedDict[Hashable, V] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: Hashable, value: V) -> V:
        with self._lock:
            if (old := self._entries.pop(key, None)) is not None:
                self._size -= self._get_size(old)
            self._entries[key] = value
            self._size += self._get_size(value)
            while self._size > self._max_bytes and len(self._entries) > 1:
                self._size -= self._get_size(self._entries.popitem(last=False)[1])
        return value

    def get_or_create(self, key: Hashable, create: Callable[[], V]) -> V:
        """The cached value, else a new one. Concurrent misses each make it: cheaper than a lock."""
        cached = self.get(key)
        return self.put(key, create()) if cached is None else cached
