"""A decoder of JSON that refuses what parsers read differently: keys twice, NaN, infinities."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn


def reject_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; `ValueError` where a key is there twice: readers differ in which one counts."""
    unique = dict(pairs)
    if len(unique) < len(pairs):
        duplicate = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {duplicate[:80]!r} is there twice")
    return unique


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


DECODER = json.JSONDecoder(object_pairs_hook=reject_duplicate_keys, parse_constant=_reject_constant)
