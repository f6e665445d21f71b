"""Guess of a file's columns: question, label, choices and outputs, by the names that people use
and by what stands in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qcrd.cli.init.column_names import (
    CHOICE_COLUMNS,
    CHOICE_NAMES,
    CONTEXT_NAMES,
    FORMS,
    LABEL_NAMES,
    OUTPUT_NAMES,
    QUESTION_NAMES,
    QUESTION_TEMPLATES,
    RATIONALE_COLUMNS,
    RATIONALE_NAMES,
)

Source = str | list[str]
"""A column or a template, or several columns, as `task.fields` has them."""
MAX_DEPTH = 2
"""Of objects in a record whose parts are columns too."""
MOST = 0.9
"""Share of a column's values that are of a kind, for the column to be."""


@dataclass
class ColumnGuess:
    """`fields` for `task.fields`, without those that are named as ours are. `form`: a form that
    needs no naming. `missing`: what no column looks like."""

    fields: dict[str, Source] = field(default_factory=dict)
    form: str | None = None
    missing: list[str] = field(default_factory=list)
    has_outputs: bool = False
    has_choices: bool = False


class Columns:
    """The columns of some records, parts of objects by their path, with the values that they have
    there."""

    def __init__(self, records: Sequence[Mapping[str, Any]]) -> None:
        self._values: dict[str, list[Any]] = {}
        for record in records:
            for path, value in _iter_columns(record):
                values = self._values.setdefault(path, [])
                if value not in (None, "", [], {}):
                    values.append(value)
        self._paths: dict[str, str] = {}
        for path in sorted(self._values, key=lambda path: path.count(".")):
            self._paths.setdefault(path.casefold(), path)
            self._paths.setdefault(path.rpartition(".")[2].casefold(), path)

    def find(self, name: str) -> str | None:
        """The column called `name`, whatever its case, or else the part of an object."""
        return self._paths.get(name)

    def get_values(self, path: str) -> list[Any]:
        return self._values.get(path, [])

    def are(self, path: str, *types: type) -> bool:
        """Whether most of the column's values are of these types, and there are any."""
        values = self.get_values(path)
        return bool(values) and sum(isinstance(v, types) for v in values) >= MOST * len(values)

    def are_options(self, path: str) -> bool:
        """Lists, objects, or cells that spell a list."""
        spelled = all(str(value).lstrip().startswith("[") for value in self.get_values(path))
        return self.are(path, list, dict) or (self.are(path, str) and spelled)


def _iter_columns(
    fields: Mapping[str, Any], prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, Any]]:
    for name, value in fields.items():
        path = f"{prefix}{name}"
        yield path, value
        if isinstance(value, Mapping) and depth < MAX_DEPTH and "." not in name:
            yield from _iter_columns(value, f"{path}.", depth + 1)


def guess_columns(
    records: Sequence[Mapping[str, Any]], given: Mapping[str, Source] | None = None
) -> ColumnGuess:
    """From a sample of records; `given` names some of the fields, "" those not to be used."""
    guess = ColumnGuess(dict(given or {}))
    if not guess.fields and (form := find_form(records[0])) is not None:
        guess.form = form
        return guess
    columns, taken = Columns(records), set[str]()
    for name in guess.fields:
        taken |= _list_columns(guess.fields[name])
    _guess(guess, "question", _find_question(columns), taken)
    _guess(guess, "choices", _find_choices(columns, taken), taken)
    _guess(guess, "label", _find_label(columns, taken), taken)
    outputs = ("teacher_output", "teacher_outputs", "outputs", "rationales")
    if not any(name in guess.fields for name in outputs):
        for name, source in _find_outputs(columns, taken):
            _guess(guess, name, source, taken)
    guess.has_choices = bool(guess.fields.get("choices"))
    guess.has_outputs = any(guess.fields.get(name) for name in outputs)
    guess.missing = [name for name in ("question", "label") if not guess.fields.get(name)]
    guess.fields = {
        name: source for name, source in guess.fields.items() if source and source != name
    }
    return guess


def find_form(first: Mapping[str, Any]) -> str | None:
    if "question" in first:
        return None
    if "prompt" in first and "completion" in first:
        return "prompts with completions"
    return next((form for name, form in FORMS.items() if name in first), None)


def _guess(guess: ColumnGuess, name: str, source: Source | None, taken: set[str]) -> None:
    if name not in guess.fields and source:
        guess.fields[name] = source
        taken |= _list_columns(source)


def _list_columns(source: Source) -> set[str]:
    """The columns themselves; those of a template may be something else too, as COPA's question
    is."""
    return {source} if isinstance(source, str) else set(source)


def _find_question(columns: Columns) -> str | None:
    for names, template in QUESTION_TEMPLATES:
        found = [columns.find(name) for name in names]
        if all(path is not None and columns.are(path, str) for path in found):
            for name, path in zip(names, found, strict=True):
                template = template.replace(f"{{{name}}}", f"{{{path}}}")
            return template
    asked = _find_texts(columns, QUESTION_NAMES)
    context = _find_texts(columns, CONTEXT_NAMES)
    if asked is None or context in (None, asked):
        return asked or context
    return f"{{{context}}}\n\n{{{asked}}}"


def _find_texts(columns: Columns, names: Sequence[str]) -> str | None:
    for name in names:
        path = columns.find(name)
        if path is not None and columns.are(path, str):
            return path
    return None


def _find_choices(columns: Columns, taken: set[str]) -> Source | None:
    for name in CHOICE_NAMES:
        path = columns.find(name)
        if path is not None and path not in taken and columns.are_options(path):
            return path
    for names in CHOICE_COLUMNS:
        present = [path for name in names if (path := columns.find(name)) is not None]
        used = [path for path in present if columns.get_values(path) and "." not in path]
        if len(used) >= 2 and not taken & set(used):
            return used
    return None


def _find_label(columns: Columns, taken: set[str]) -> str | None:
    found = None
    paths = [path for name in LABEL_NAMES if (path := columns.find(name)) is not None]
    for path in sorted(paths, key=lambda path: path.count(".")):
        if path in taken or path.rpartition(".")[0] in taken:  # the letters of options are none
            continue
        if columns.are(path, str, int, float, bool, list) and not _are_objects(columns, path):
            return path
        if columns.are(path, dict) and columns.are(f"{path}.text", list):
            return f"{path}.text.0"  # SQuAD's, of which the first counts
        found = found or (path if not columns.get_values(path) else None)
    return found  # a column that has nothing, where no other is there


def _are_objects(columns: Columns, path: str) -> bool:
    lists = [value for value in columns.get_values(path) if isinstance(value, list)]
    return any(isinstance(each, dict) for value in lists for each in value)


def _find_outputs(columns: Columns, taken: set[str]) -> Iterator[tuple[str, Source]]:
    """The first that there is: outputs of a teacher, several explanations, or one."""
    for name in OUTPUT_NAMES:
        path = columns.find(name)
        if path is not None and path not in taken and columns.are(path, str, list):
            is_list = columns.are_options(path)
            own = path if path in ("teacher_outputs", "outputs") else "teacher_outputs"
            yield (own if is_list else "teacher_output"), path
            return
    for names in RATIONALE_COLUMNS:
        present = [path for name in names if (path := columns.find(name)) is not None]
        used = [path for path in present if columns.are(path, str) and path not in taken]
        if used:
            yield "rationales", used if len(used) > 1 else used[0]
            return
    for name in RATIONALE_NAMES:
        path = columns.find(name)
        if path is not None and path not in taken and columns.are(path, str, list):
            yield "rationales", path
            return
