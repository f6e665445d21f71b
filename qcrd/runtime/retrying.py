"""Retries of a call to what is away for a moment, after ever longer pauses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from qcrd.errors import Transient

T = TypeVar("T")


def compute_backoff(retries: int, first: float, longest: float) -> float:
    """Seconds to wait after `retries` retries: `first`, doubled each time up to `longest`."""
    return min(longest, first * 2.0 ** min(retries, 30))


def call_with_retries(
    call: Callable[[], T],
    delays: Iterable[float],
    *,
    before_retry: Callable[[Transient], None] = lambda error: None,
) -> T:
    """What `call` returns, called again `delays` seconds after each `Transient`; the one after the
    last delay is raised. `before_retry` is called before each pause, and may end it by raising."""
    for delay in delays:
        try:
            return call()
        except Transient as error:
            before_retry(error)
            time.sleep(delay)
    return call()
