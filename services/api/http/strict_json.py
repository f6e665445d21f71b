"""JSON as RFC 8259 has it, and nothing that two readers could understand differently."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any, NoReturn

from qcrd.errors import Invalid

MOST_BRACKETS = 100_000
"""Lists and objects in one body: 8 MB of empty ones, where 4 MiB of text could make 300."""
DEEPEST = 64
"""Levels; a job's spec has eight."""
LONGEST_KEY = 500
"""Characters: errors repeat the keys that they are about."""
INTEGERS = range(-(2**63), 2**64)
"""What stores and other languages can hold."""

Place = tuple["Place", str] | None
"""The way to a value, innermost name last; joined only when it has to be told."""


def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; `ValueError` where a key is there twice: readers differ in which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {twice[:80]!r} is there twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


DECODER = json.JSONDecoder(object_pairs_hook=distinct, parse_constant=_constant)


def read(body: bytes) -> Any:
    """The value that `body` is; `Invalid` with the field where it can be told."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Invalid(
            f"the body is not UTF-8 (byte {error.start + 1}): send JSON in UTF-8", code="not_utf8"
        ) from error
    if text.count("[") + text.count("{") > MOST_BRACKETS:
        raise _broken(f"more than {MOST_BRACKETS} lists and objects")
    try:
        value = DECODER.decode(text)
    except RecursionError as error:
        raise _broken(f"nested deeper than {DEEPEST} levels") from error
    except ValueError as error:  # broken, a key twice, a constant, a number of 5,000 digits
        raise _broken(_told(error)) from error
    _check(value)
    return value


def _check(value: Any) -> None:
    """Goes through the whole value without recursion, which a deep one would exhaust."""
    left: list[tuple[Place, Any, int]] = [(None, value, 1)]
    while left:
        place, found, depth = left.pop()
        if depth > DEEPEST:
            raise _broken(f"nested deeper than {DEEPEST} levels")
        if isinstance(found, dict):
            for name in found:
                _key(name, place)
            left += [((place, name), below, depth + 1) for name, below in found.items()]
        elif isinstance(found, list):
            left += [((place, str(i)), below, depth + 1) for i, below in enumerate(found)]
        elif isinstance(found, str):
            _text(found, place)
        elif isinstance(found, int | float):
            _number(found, place)


def _key(name: str, place: Place) -> None:
    _text(name, place)
    if len(name) > LONGEST_KEY:
        raise _wrong(place, f"a key of more than {LONGEST_KEY} characters")


def _text(text: str, place: Place) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _wrong(place, "half of a surrogate pair (\\ud800-\\udfff)", "not_utf8") from error


def _number(number: float, place: Place) -> None:
    if isinstance(number, int) and number not in INTEGERS:
        raise _wrong(place, "a whole number beyond 64 bits")
    if isinstance(number, float) and not math.isfinite(number):
        raise _wrong(place, "a number beyond the largest of 64 bits, 1.8e308")


def _wrong(place: Place, problem: str, code: str = "invalid_value") -> Invalid:
    path = _path(place)
    where = f"`{path}`" if path else "the body"
    return Invalid(f"{where} holds {problem}: send another", param=path, code=code)


def _path(place: Place) -> str | None:
    names: list[str] = []
    while place is not None:
        place, name = place
        names.append(name[:80].encode("utf-8", "replace").decode())
    return ".".join(reversed(names)) or None


def _broken(reason: str) -> Invalid:
    return Invalid(f"the body is not JSON that can be read: {reason}", code="broken_json")


def _told(error: ValueError) -> str:
    """Without the key's own surrogates, which no answer could carry."""
    return str(error).encode("utf-8", "replace").decode()
