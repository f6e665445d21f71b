"""One key's share of what a gateway does at once, so that no key keeps the others waiting.

Requests above a key's share are told 429 with a Retry-After, as are uploads that waited in vain.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from qcrd.errors import TooMany
from qcrd.records.api_keys import ApiKey


@dataclass(frozen=True)
class KeyShare:
    """`activity` in the words of an error, and how many of them one key may have at once in this
    process. `retry_seconds`: after which a client is told to try again."""

    activity: str
    limit: int
    retry_seconds: float = 2.0
    _counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def acquire(self, key: ApiKey) -> None:
        """Count one more of `key`; `TooMany` when its share is used up. `release` ends it."""
        with self._lock:
            if self._counts[key.name] >= self.limit:
                raise self.make_error(key)
            self._counts[key.name] += 1

    def release(self, key: ApiKey) -> None:
        with self._lock:
            self._counts[key.name] -= 1
            if not self._counts[key.name]:
                del self._counts[key.name]

    @contextmanager
    def hold(self, key: ApiKey) -> Iterator[None]:
        """One of `key`'s share, for as long as the block runs; `TooMany`."""
        self.acquire(key)
        try:
            yield
        finally:
            self.release(key)

    def make_error(self, key: ApiKey) -> TooMany:
        return TooMany(
            f"key {key.name} has {self.limit} {self.activity} at once here, its whole share: wait "
            "until one of them is done",
            code="share_exceeded",
            retry_after=self.retry_seconds,
        )


class SharedStream:
    """`frames`, one of `key`'s `share` until they end; `TooMany`. A response whose client leaves
    before the first frame never iterates it: its share is free again once it is collected."""

    def __init__(self, frames: AsyncGenerator[bytes], share: KeyShare, key: ApiKey) -> None:
        share.acquire(key)
        self._frames = frames
        self._release = weakref.finalize(self, share.release, key)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._frames):
                async for frame in self._frames:
                    yield frame
        finally:
            self._release()


@dataclass(frozen=True)
class GatewayShares:
    """The shares of one process. Threads answer most requests, forty of them in all."""

    validations: KeyShare = field(
        default_factory=lambda: KeyShare("jobs, studies and estimates being checked", 8)
    )
    """Reading files, checking labels, asking the hub and the teacher."""
    streams: KeyShare = field(
        default_factory=lambda: KeyShare("event streams", 5_000, retry_seconds=30.0)
    )
