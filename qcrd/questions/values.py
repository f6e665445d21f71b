"""Values of a record's fields, checked, and spelled out where a text is needed."""

from __future__ import annotations

import ast
import io
import json
import math
import tokenize
from collections.abc import Mapping, Sequence
from decimal import Decimal
from string import ascii_lowercase, ascii_uppercase
from typing import Any

from qcrd.runtime.data_files.json_decoder import DECODER
from qcrd.runtime.data_files.records import (
    SourceRecord,
    clean_text,
    describe_type,
    make_record_error,
)

MAX_METADATA_CHARS = 4000
"""Of all extra columns of a record together; what is longer is left out of the record."""


def get_text(record: SourceRecord, name: str, value: Any, *, allow_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise make_value_error(
            record,
            f"`{name}` must be a string, not {describe_type(value)}: write it in double quotes",
        )
    if not allow_empty and not value.strip():
        raise make_value_error(record, f"`{name}` is empty: give its text or remove the line")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise make_value_error(
            record,
            f"`{name}` holds half of a surrogate pair (\\ud800-\\udfff): write the whole character",
            code="not_utf8",
        ) from error
    return value


def spell(record: SourceRecord, name: str, value: Any) -> str | None:
    """The text of a label: `3` for the number, also where a table made it 3.0 of it, `true` and
    `false`, the entries of a list with commas between them; None for nothing."""
    if isinstance(value, list | tuple):
        if not value:
            return None
        entries = [spell(record, f"{name}[{index}]", each) for index, each in enumerate(value)]
        return ", ".join(entry for entry in entries if entry is not None)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        if math.isnan(value):  # how tables write nothing
            return None
        raise make_value_error(record, f"`{name}` is no finite number: write the answer")
    if isinstance(value, float | Decimal) and value == int(value):
        return str(int(value))
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, bytes):
        raise make_value_error(record, f"`{name}` is binary, not a text: store it as a string")
    if isinstance(value, Mapping):
        raise make_value_error(
            record,
            f"`{name}` is an object, no answer: name the part of it that is one in `task.fields`, "
            f"such as {name}.text",
        )
    return get_text(record, name, value if isinstance(value, str) else str(value))


def get_label(
    record: SourceRecord, value: Any, choices: Sequence[str], keys: Sequence[str] = ()
) -> str | None:
    """One of the choices' `keys` (ARC's `choices.label`) is that choice. A whole number is a
    choice's place from 0, as datasets name classes; anything else is spelled out. `Invalid` for a
    number that is a place and another choice's text."""
    label = spell(record, "label", value)
    if label is not None and len(keys) == len(choices) and label in keys:
        return choices[keys.index(label)]
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not choices or not is_whole:
        return label
    if label in choices:
        if 0 <= value < len(choices) and choices[value] != label:
            raise make_value_error(
                record,
                f"`label` {value} is a choice's text and another's place: write it as a string, or "
                "name the place by `task.fields`: {label: choices[label]}",
            )
        return label
    if not 0 <= value < len(choices):
        raise make_value_error(
            record,
            f"`label` {value} is no place among {len(choices)} choices, counted from 0: write the "
            "choice itself or its letter",
        )
    return str(choices[value])


def get_texts(
    record: SourceRecord, name: str, value: Any, *, allow_empty: bool = False
) -> tuple[str, ...]:
    """Of a list, of one that a cell of a table spells, and of an object that has it as `text`."""
    value = _unfold_list(value)
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise make_value_error(
            record, f"`{name}` must be a list of strings, not {_describe(value)}"
        )
    return tuple(
        get_text(record, f"{name}[{index}]", item, allow_empty=allow_empty)
        for index, item in enumerate(value)
    )


def unfold_choices(value: Any) -> tuple[Any, list[str]]:
    """A list of options, and the keys that labels name them by where they have such: an object of
    two lists (ARC's `{"text": […], "label": […]}`), a list of objects with the two, or an object
    whose keys are the letters or numbers of its options."""
    if isinstance(value, Mapping):
        texts, keys = value.get("text"), value.get("label")
        if isinstance(texts, list):
            return texts, [str(key) for key in keys] if isinstance(keys, list) else []
        names = [str(name) for name in value]
        if names in ([*ascii_uppercase[: len(names)]], [*ascii_lowercase[: len(names)]]):
            return list(value.values()), names
    if not isinstance(value, list) or not value:
        return value, []
    if not all(isinstance(each, Mapping) and "text" in each for each in value):
        return value, []
    keys = [each.get("label", each.get("key")) for each in value]
    has_keys = all(key is not None for key in keys)
    return [each["text"] for each in value], list(map(str, keys)) if has_keys else []


def _unfold_list(value: Any) -> Any:
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        return value["text"]
    if not isinstance(value, str) or not value.strip().startswith("["):
        return value
    for parse in (DECODER.decode, _parse_python_list):
        try:
            parsed = parse(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
            continue
        if isinstance(parsed, list):
            return parsed
    return value


def _parse_python_list(text: str) -> Any:
    """As tables are written from Python, which may be an array of numpy's: `['a' 'b']`, two strings
    that Python itself would join."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    strings = [token.string for token in tokens if token.type == tokenize.STRING]
    parsed = ast.literal_eval(text)
    if isinstance(parsed, list) and len(strings) > len(parsed):
        return [ast.literal_eval(string) for string in strings]
    return parsed


def _describe(value: Any) -> str:
    return "a string" if isinstance(value, str) else describe_type(value)


def collect_metadata(fields: Mapping[str, Any]) -> dict[str, str]:
    """The columns that are no part of the question, as texts."""
    found = {
        clean_text(name): _describe_value(value)
        for name, value in fields.items()
        if value is not None
    }
    return found if sum(map(len, (*found, *found.values()))) <= MAX_METADATA_CHARS else {}


def _describe_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return clean_text(text)


def make_value_error(
    record: SourceRecord, problem: str, *, code: str = "invalid_line", param: str = "file"
) -> Exception:
    return make_record_error(record.number, problem, unit=record.unit, code=code, param=param)
