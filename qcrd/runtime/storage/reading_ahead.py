"""Several reads of the store at once, in order, and never more than a few of their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from qcrd.runtime.storage.store import READ_THREADS

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def read_ahead(
    read: Callable[[ItemT], ResultT], items: Iterable[ItemT], *, threads: int = READ_THREADS
) -> Iterator[ResultT]:
    """`read` of each item in their order; so many at once, which is also how many results wait to
    be taken. Raises what `read` raises, at its place."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque[Future[ResultT]]()
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) >= threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
