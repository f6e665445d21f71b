"""Rate limits: requests of each key per minute, counted over all gateways."""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import cast

from limits import RateLimitItemPerMinute
from limits.errors import StorageError
from limits.storage import Storage, storage_from_string
from limits.strategies import SlidingWindowCounterRateLimiter

from qcrd.errors import TooMany
from qcrd.records.api_keys import ApiKey

log = logging.getLogger(__name__)

MEMORY_STORAGE = "memory://"
REDIS_TIMEOUT_OPTIONS = ("socket_timeout", "socket_connect_timeout")


@dataclass(frozen=True)
class RateLimitStatus:
    """A key's `limit` of requests a minute, `remaining` now; all again in `reset` seconds."""

    limit: int
    remaining: int
    reset: int

    def to_headers(self) -> dict[str, str]:
        """Headers with OpenAI's names, which its clients read."""
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": f"{self.reset}s",
        }


class RateLimiter:
    """A sliding window per key in `storage` (a URL of Redis, or `MEMORY_STORAGE` for one
    process)."""

    def __init__(self, storage: str = MEMORY_STORAGE) -> None:
        timeouts = {} if storage == MEMORY_STORAGE else dict.fromkeys(REDIS_TIMEOUT_OPTIONS, 2.0)
        # The library takes a synchronous storage for this URL.
        backend = cast(Storage, storage_from_string(storage, wrap_exceptions=True, **timeouts))
        self._limiter = SlidingWindowCounterRateLimiter(backend)

    def consume(self, key: ApiKey) -> RateLimitStatus | None:
        """Count one request. `TooMany` when it is one too many; None for a key without a limit.

        While Redis is unavailable none is refused here: the route itself raises then.
        """
        if key.requests_per_minute is None:
            return None
        item = RateLimitItemPerMinute(key.requests_per_minute)
        try:
            allowed = self._limiter.hit(item, "qcrd", key.name)
            window = self._limiter.get_window_stats(item, "qcrd", key.name)
        except StorageError as error:
            log.warning("rate limits are not enforced while Redis is unavailable: %s", error)
            return None
        retry_after = max(1, math.ceil(window.reset_time - time.time()))
        if not allowed:
            raise TooMany(
                f"key {key.name} may send {key.requests_per_minute} requests a minute; "
                f"try again in {retry_after} s",
                retry_after=retry_after,
            )
        return RateLimitStatus(key.requests_per_minute, window.remaining, retry_after)
