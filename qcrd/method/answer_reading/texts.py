"""Texts as answers: one spelling for what is equal but for case, quotes and closing punctuation.

JSON is compared by value, several lines by every line.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any, NoReturn

from qcrd.method.answer_reading import latex
from qcrd.method.answer_reading.characters import fold, unify

MAX_CHARS = 20_000
FENCE = re.compile(r"```[\w+#.-]*[ \t]*\n(.*?)\n?[ \t]*```\s*$", re.DOTALL)
QUOTED = re.compile(r'["\u201c]([^"\u201c\u201d]+)["\u201d]')
TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}\\]*)\}$")


def read_text(text: str) -> str | None:
    """The canonical spelling; None where nothing but punctuation is left."""
    text = text.strip()
    if len(text) > MAX_CHARS:
        return None
    if (fenced := FENCE.match(text)) is not None:
        return _read_lines(fenced[1]) if dump_json(fenced[1]) is None else dump_json(fenced[1])
    if text[:1] in "{[" and (dumped := dump_json(text)) is not None:
        return dumped
    if "\n" in text:
        return _read_lines(text)
    boxed = latex.unbox(text)
    if (command := TEXT_COMMAND.match(boxed)) is not None:
        boxed = command[1]
    return fold(_get_repeated_quote(boxed) or boxed) or None


def _get_repeated_quote(text: str) -> str | None:
    """`"yajo". "yajo".` is said twice."""
    quoted = {fold(found) for found in QUOTED.findall(text)}
    between = QUOTED.sub("", text)
    return quoted.pop() if len(quoted) == 1 and not any(c.isalnum() for c in between) else None


def _read_lines(text: str) -> str | None:
    """Every line as it is, but for spaces at its end; case and indentation count."""
    lines = [line.rstrip() for line in unify(text).split("\n")]
    if sum(map(bool, lines)) == 1 and "```" not in text:
        return fold(" ".join(lines)) or None
    return "\n".join(lines).strip("\n") or None


def dump_json(text: str) -> str | None:
    """One spelling per JSON object or array; None for anything else, or two values of one key."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_make_object,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
        )
        if not isinstance(value, dict | list):
            return None
        return json.dumps(value, sort_keys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _parse_float(digits: str) -> float:
    if Decimal(repr(float(digits))) != Decimal(digits):
        raise ValueError(f"{digits} is no float: it would equal others")
    return float(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
