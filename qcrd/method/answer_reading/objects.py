"""JSON objects as outputs: `{"explanation": "It swims.", "answer": "animal"}`, fenced or not."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from qcrd.method.answer_reading.readers import Reader
from qcrd.records.specs.task import AnswerKind

EXPLANATION_KEYS = frozenset(
    "explanation reasoning rationale thought thoughts reason analysis steps explain justification "
    "chain_of_thought".split()
)
ANSWER_KEYS = frozenset("answer final_answer finalanswer final answers".split())
KEYS_OF_KIND = {
    AnswerKind.LABEL: frozenset({"label", "class", "category", "prediction"}),
    AnswerKind.CHOICE: frozenset({"choice", "option", "letter"}),
    AnswerKind.NUMBER: frozenset({"result", "value"}),
}
OPENING = re.compile(r"^[ \t]*(?:```[a-zA-Z]*[ \t]*\n[ \t]*)?(\{)", re.MULTILINE)
BROKEN = re.compile(
    r"^[ \t]*(?:```[a-zA-Z]*\s*)?\{\s*[\"'](?:"
    + "|".join(sorted(EXPLANATION_KEYS | ANSWER_KEYS))
    + r")[\"']\s*:",
    re.MULTILINE | re.IGNORECASE,
)
"""The beginning of an object whose end was cut off, or that is no JSON."""
MAX_CANDIDATES = 8


class ObjectAnswer(NamedTuple):
    """The canonical answer, the explanation that the object has, and the object's offsets."""

    answer: str
    explanation: str
    start: int
    end: int


class _Digits(str):
    """A JSON number as it is written."""


def find_object(text: str, start: int, end: int) -> tuple[int, int, dict[str, Any]] | None:
    """The JSON object with an answer that ends the text, where it stands, and its fields."""
    decoder = json.JSONDecoder(
        parse_int=_Digits, parse_float=_Digits, object_pairs_hook=_make_object
    )
    body = text[start:end]
    for count, found in enumerate(OPENING.finditer(body)):
        if count == MAX_CANDIDATES:
            break
        try:
            fields, last = decoder.raw_decode(body, found.start(1))
        except (ValueError, RecursionError):
            continue
        if not isinstance(fields, dict):
            continue
        if not body[last:].strip(" \t\n`"):
            return start + found.start(), start + last, fields
        if not ANSWER_KEYS.isdisjoint(fields):  # one of several, or not the end
            return start + found.start(), start + last, {"answer": None}
    return None


def is_broken_object(text: str, start: int, end: int) -> bool:
    """Whether an object with an answer begins there: what its strings say is no statement."""
    return BROKEN.search(text[start:end]) is not None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key.casefold() for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return {key.casefold(): value for key, value in pairs}


def is_answer_object(fields: dict[str, Any], reader: Reader) -> bool:
    """Whether it has an answer's key: a text answer may be an object of its own."""
    return any(key in _get_keys(reader) for key in fields)


def read_object(found: tuple[int, int, dict[str, Any]], reader: Reader) -> ObjectAnswer | None:
    """Its answer and explanation; None where two keys say different answers, or one says none."""
    start, end, fields = found
    answers = {_read_value(fields[key], reader) for key in fields if key in _get_keys(reader)}
    explanations = [
        value for key, value in fields.items() if key in EXPLANATION_KEYS and isinstance(value, str)
    ]
    answer = answers.pop() if len(answers) == 1 else None
    if answer is None:
        return None
    return ObjectAnswer(answer, "\n".join(explanations).strip(), start, end)


def _get_keys(reader: Reader) -> frozenset[str]:
    return ANSWER_KEYS | KEYS_OF_KIND.get(reader.kind, frozenset())


def _dump(value: Any) -> str:
    """JSON with its numbers as they were written."""
    if isinstance(value, _Digits):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)}: {_dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_dump, value)) + "]"
    return json.dumps(value)


def _read_value(value: Any, reader: Reader) -> str | None:
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, str):
        return reader.read(str(value).strip())
    if reader.kind is AnswerKind.TEXT and isinstance(value, dict | list):
        return reader.read(_dump(value))
    return None
