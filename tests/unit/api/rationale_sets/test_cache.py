"""What stays in memory of the sets that were read last."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from services.api.rationale_sets.cache import make_cache


def of_bytes(count: int) -> NDArray[np.uint8]:
    return np.zeros(count, np.uint8)


def test_the_least_recently_used_leave_when_all_together_weigh_too_much() -> None:
    cache: LRUCache[Hashable, NDArray[np.uint8]] = make_cache(100)
    cache["a"], cache["b"] = of_bytes(40), of_bytes(60)
    assert cache["a"].nbytes == 40
    cache["c"] = of_bytes(60)
    assert sorted(cache) == ["a", "c"]


def test_the_newest_stays_even_when_it_alone_weighs_too_much() -> None:
    cache: LRUCache[Hashable, NDArray[np.uint8]] = make_cache(100)
    cache["a"], cache["large"] = of_bytes(10), of_bytes(101)
    assert list(cache) == ["large"]
    cache["b"] = of_bytes(10)
    assert list(cache) == ["b"]
