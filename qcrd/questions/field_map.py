"""Field map of a task: which columns of a file are question, label, choices and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qcrd.questions.values import make_value_error, spell
from qcrd.runtime.data_files.records import SourceRecord, truncate

COLUMN = re.compile(r"\{([^{}]+)\}")
PART = re.compile(r"(.+?) (<<|>>|!=) (\S(?:.*\S)?)")
"""What stands before a mark in a column, or behind it: `answer >> ####`; or the column, of which
one value says that the record is to be left out: `label != -1`."""
PLACE = re.compile(r"choices\[(.+)\]")
"""The choice at the place, from 0, that a column has."""
MISSING = object()
LEFT_OUT = object()
"""The label of a record that the map leaves out."""
MAX_LISTED_COLUMNS = 30

FieldMap = Mapping[str, str | tuple[str, ...]]
"""For a name of ours a column, a path into one (`answers.text`), a part of one (`answer >> ####`),
a label without the value that stands for none (`label != -1`), the choice at a place
(`choices[label]`), a template of columns in braces, or several for a list."""


def apply_field_map(
    record: SourceRecord, fields: FieldMap, *, is_first: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields by our names, and the columns that are in none of them. `Invalid` for a column
    that the first record does not have."""
    used, mapped = set[str](), dict[str, Any]()
    for name, source in fields.items():
        if isinstance(source, str):
            mapped[name] = _read(record, name, source, used, is_first=is_first)
            continue
        # Of several, records may lack some: the fifth option, the second explanation.
        lacks_all = not any(_has_column(record, each) for each in source)
        values = [
            _read(record, name, each, used, is_first=is_first and lacks_all) for each in source
        ]
        mapped[name] = _trim(record, name, values)
    rest = {name: value for name, value in record.fields.items() if name not in used}
    return mapped, rest


def _has_column(record: SourceRecord, source: str) -> bool:
    return any(_walk(record.fields, each) is not MISSING for each in list_source_columns(source))


def _trim(record: SourceRecord, name: str, values: list[Any]) -> list[Any]:
    """Without empty ones; a choice between others is needed, as letters and places count it."""
    present = [value for value in values if value not in (None, "")]
    if name == "choices" and values[: len(present)] != present:
        raise make_value_error(
            record, "`choices` has an empty option before another, which would shift their letters"
        )
    return present


def _read(record: SourceRecord, name: str, source: str, used: set[str], *, is_first: bool) -> Any:
    if part := _match_part(source):
        value = _find(record, name, part[1], used, is_first=is_first)
        if part[2] == "!=":
            return LEFT_OUT if spell(record, part[1], value) == part[3] else value
        return _take_part(value, part[2], part[3])
    if place := PLACE.fullmatch(source):
        return _to_place(record, _find(record, name, place[1], used, is_first=is_first))
    if not COLUMN.search(source):
        return _find(record, name, source, used, is_first=is_first)

    values = dict[str, str]()
    for column in COLUMN.findall(source):
        value = _find(record, name, column, used, is_first=is_first)
        values[column] = "" if value == "" else spell(record, column, value) or ""
    if not any(values.values()):
        return None
    text = source.replace("\\n", "\n")
    return COLUMN.sub(lambda found: values[found[1]], text).strip() or None


def _match_part(source: str) -> re.Match[str] | None:
    """None for a template, which may have such signs between its columns."""
    return None if COLUMN.search(source) else PART.fullmatch(source)


def list_empty_columns(record: SourceRecord, source: str | tuple[str, ...]) -> list[str]:
    """Columns of a template that the record has nothing in."""
    if not isinstance(source, str):
        return []
    columns = COLUMN.findall(source)
    return [each for each in columns if _walk(record.fields, each) in (MISSING, None, "")]


def _to_place(record: SourceRecord, value: Any) -> int | None:
    text = spell(record, "label", value)
    if text is None:
        return None
    if not text.isdecimal():
        raise make_value_error(record, f"`label` is {truncate(text)!r}, no place among `choices`")
    return int(text)


def _take_part(value: Any, side: str, mark: str) -> Any:
    """None where the mark is not there."""
    if not isinstance(value, str) or mark not in value:
        return None
    before, _, behind = value.rpartition(mark)
    return (before if side == "<<" else behind).strip() or None


def _find(record: SourceRecord, name: str, path: str, used: set[str], *, is_first: bool) -> Any:
    value = _walk(record.fields, path)
    used.add(path if path in record.fields else path.partition(".")[0])
    if value is MISSING:
        if is_first:
            raise make_value_error(
                record,
                f"there is no column `{truncate(path)}`, which `task.fields.{name}` names: there "
                f"are {list_columns(record.fields)}",
                code="unknown_column",
            )
        return None
    return value


def _walk(value: Any, path: str) -> Any:
    """A column of that name, or else step by step: names of objects, places of lists."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    step, _, rest = path.partition(".")
    match value:
        case Mapping() if step in value:
            value = value[step]
        case list() if step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        case _:
            return MISSING
    return _walk(value, rest) if rest else value


def list_source_columns(source: str) -> list[str]:
    """The columns, or paths into them, that a source of a field map reads."""
    if part := _match_part(source) or PLACE.fullmatch(source):
        return [part[1]]
    return COLUMN.findall(source) or [source]


def list_columns(fields: Mapping[str, Any]) -> str:
    shown = [f"`{truncate(name)}`" for name in list(fields)[:MAX_LISTED_COLUMNS]]
    return ", ".join(shown) or "none"


def make_unmapped_error(record: SourceRecord, param: str = "file") -> Exception:
    columns = list(record.fields)
    first, last = (columns[0], columns[-1]) if columns else ("text", "label")
    return make_value_error(
        record,
        f"`question` is missing: the columns are {list_columns(record.fields)}; say in "
        f"`task.fields` which is which, such as fields: {{question: {truncate(first)}, label: "
        f"{truncate(last)}}}",
        code="no_question",
        param=param,
    )
