"""A parser of RFC 8259 JSON that refuses everything that parsers read differently."""

from __future__ import annotations

import math
from typing import Any

from qcrd.errors import Invalid
from qcrd.runtime.data_files.json_decoder import DECODER

MAX_CONTAINERS = 20_000
"""Lists and objects in one body: 2 MB of empty ones, where 4 MiB of text could make 300."""
MAX_VALUES = 100_000
"""Values in one body: looking at each holds the interpreter, and so every other client."""
MAX_DEPTH = 64
"""Levels; a job's spec has eight."""
MAX_KEY_LENGTH = 500
"""Characters of a key, as errors repeat it."""
INTEGER_RANGE = range(-(2**63), 2**64)
"""Range of integers: what stores and other languages can represent."""

JsonPath = tuple["JsonPath", str] | None
"""The path to a value, innermost name last; joined only for an error."""


def parse_json(body: bytes) -> Any:
    """The value in `body`; `Invalid`, with the field where it is known."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Invalid(
            f"the body is not UTF-8 (byte {error.start + 1}): send JSON in UTF-8", code="not_utf8"
        ) from error
    if text.count("[") + text.count("{") > MAX_CONTAINERS:
        raise _make_parse_error(f"more than {MAX_CONTAINERS} lists and objects")
    try:
        value = DECODER.decode(text)
    except RecursionError as error:
        raise _make_parse_error(f"nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:  # broken, a key twice, a constant, a number of 5,000 digits
        raise _make_parse_error(_format_error(error)) from error
    _check_value(value)
    return value


def _check_value(value: Any) -> None:
    """Check the whole value, without recursion, which a deep one would exhaust."""
    stack: list[tuple[JsonPath, Any, int]] = [(None, value, 1)]
    n_values = 0
    while stack:
        path, item, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise _make_parse_error(f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(item, dict | list) and (n_values := n_values + len(item)) > MAX_VALUES:
            raise _make_parse_error(f"more than {MAX_VALUES} values")
        if isinstance(item, dict):
            for name in item:
                _check_key(name, path)
            stack += [((path, name), child, depth + 1) for name, child in item.items()]
        elif isinstance(item, list):
            stack += [((path, str(i)), below, depth + 1) for i, below in enumerate(item)]
        elif isinstance(item, str):
            _check_text(item, path)
        elif isinstance(item, int | float):
            _check_number(item, path)


def _check_key(name: str, path: JsonPath) -> None:
    _check_text(name, path)
    if len(name) > MAX_KEY_LENGTH:
        raise _make_value_error(path, f"a key of more than {MAX_KEY_LENGTH} characters")


def _check_text(text: str, path: JsonPath) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _make_value_error(
            path, "half of a surrogate pair (\\ud800-\\udfff)", "not_utf8"
        ) from error


def _check_number(number: float, path: JsonPath) -> None:
    if isinstance(number, int) and number not in INTEGER_RANGE:
        raise _make_value_error(path, "a whole number beyond 64 bits")
    if isinstance(number, float) and not math.isfinite(number):
        raise _make_value_error(path, "a number beyond the largest of 64 bits, 1.8e308")


def _make_value_error(path: JsonPath, problem: str, code: str = "invalid_value") -> Invalid:
    formatted = _format_path(path)
    subject = f"`{formatted}`" if formatted else "the body"
    return Invalid(f"{subject} holds {problem}: send another", param=formatted, code=code)


def _format_path(path: JsonPath) -> str | None:
    names: list[str] = []
    while path is not None:
        path, name = path
        names.append(name[:80].encode("utf-8", "replace").decode())
    return ".".join(reversed(names)) or None


def _make_parse_error(reason: str) -> Invalid:
    return Invalid(f"the body is not JSON that can be read: {reason}", code="broken_json")


def _format_error(error: ValueError) -> str:
    """The path without unpaired surrogates, which no response could encode."""
    return str(error).encode("utf-8", "replace").decode()
