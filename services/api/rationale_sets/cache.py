"""What was read last and never changes, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Recent(Generic[V]):
    """The least recently used go when all together weigh more than `limit` bytes, but never the
    newest: it is in use anyhow."""

    def __init__(self, limit: int, weigh: Callable[[V], int]) -> None:
        self._limit = limit
        self._weigh = weigh
        self._held: OrderedDict[Hashable, V] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, value: V) -> V:
        with self._lock:
            if (old := self._held.pop(key, None)) is not None:
                self._weight -= self._weigh(old)
            self._held[key] = value
            self._weight += self._weigh(value)
            while self._weight > self._limit and len(self._held) > 1:
                self._weight -= self._weigh(self._held.popitem(last=False)[1])
        return value

    def find(self, key: Hashable, make: Callable[[], V]) -> V:
        """Two who miss the same at once both make it: cheaper than all waiting for one."""
        found = self.get(key)
        return self.put(key, make()) if found is None else found
