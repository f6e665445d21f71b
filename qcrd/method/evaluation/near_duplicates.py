"""Finds test texts that are nearly the same as a training text."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

NEAR_DUPLICATE_SIMILARITY = 0.8
"""Jaccard similarity of two texts' word triples from which on they are near-duplicates."""
WORD = re.compile(r"\w+")


MAX_PAIRS = 10_000_000
"""Compared at most, which takes some ten seconds. Many short questions of one pattern have more."""


def flag_near_duplicates(
    training: Sequence[str],
    test: Sequence[str],
    similarity: float = NEAR_DUPLICATE_SIMILARITY,
    max_pairs: int = MAX_PAIRS,
) -> list[bool] | None:
    """Whether each test text has a training text whose word triples are at least that similar; None
    where more than `max_pairs` would have to be compared to know.

    Exact: two sets that are similar enough share one of their rarest members (prefix filtering,
    Bayardo et al. 2007), so that only such pairs are compared.
    """
    train_sets = [_split(text) for text in training]
    test_sets = [_split(text) for text in test]
    counts = Counter(part for parts in train_sets for part in parts)

    def rarest_first(parts: frozenset[str]) -> Iterable[str]:
        kept = len(parts) - math.ceil(similarity * len(parts)) + 1
        return sorted(parts, key=lambda part: (counts[part], part))[:kept]

    by_part: defaultdict[str, list[int]] = defaultdict(list)
    for place, parts in enumerate(train_sets):
        for part in rarest_first(parts):
            by_part[part].append(place)

    test_parts = [(parts, rarest_first(parts)) for parts in test_sets]
    if sum(len(by_part.get(part, ())) for _, rarest in test_parts for part in rarest) > max_pairs:
        return None

    def is_near(parts: frozenset[str], rarest: Iterable[str]) -> bool:
        seen: set[int] = set()
        for part in rarest:
            for place in by_part.get(part, ()):
                if place in seen:
                    continue
                seen.add(place)
                other = train_sets[place]
                shared = len(parts & other)
                if shared >= similarity * (len(parts) + len(other) - shared):
                    return True
        return False

    return [is_near(parts, rarest) for parts, rarest in test_parts]


def _split(text: str) -> frozenset[str]:
    """Its triples of consecutive words; of a text with fewer words, those."""
    words = WORD.findall(text.casefold())
    return frozenset(" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2)))
