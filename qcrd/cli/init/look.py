"""A look at a data file: its records, what its columns are, and what its answers are like."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from qcrd.cli.init.answers import AnswerGuess
from qcrd.cli.init.columns import ColumnGuess, Source, guess_columns
from qcrd.errors import Invalid
from qcrd.runtime.data_files.detect import read_records

SPLITS = {
    "training_file": ("train", "training"),
    "validation_file": ("validation", "valid", "val", "dev"),
    "test_file": ("test", "eval"),
}
SOLUTION_MARK = "####"
"""Between solution and answer, as GSM8K has it."""
SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class DataLook:
    records: int
    columns: list[str]
    guess: ColumnGuess
    answers: AnswerGuess
    first: Mapping[str, Any]
    outputs: int = 0


def find_splits(data: Path) -> dict[str, Path]:
    """The files of a folder, or those beside a file, by what they are to a job."""
    if not data.exists():
        raise Invalid(f"DATA: there is no file or folder {data}")
    if data.is_file():
        named = _find_named(data.parent)
        if named.get("training_file") == data:
            return named
        return {"training_file": data}
    named = _find_named(data)
    files = [path for path in sorted(data.iterdir()) if path.suffix.lower() in SUFFIXES]
    if "training_file" not in named and len(files) == 1:
        named["training_file"] = files[0]
    if "training_file" not in named:
        raise Invalid(
            f"DATA: no file in {data} is called `train` (with {', '.join(SUFFIXES)}): name the "
            "training file itself"
        )
    return named


def _find_named(folder: Path) -> dict[str, Path]:
    found = dict[str, Path]()
    for path in sorted(folder.iterdir()):
        stem = re.split(r"[-_.]", path.name.lower())
        for name, words in SPLITS.items():
            if path.suffix.lower() in SUFFIXES and not set(words).isdisjoint(stem):
                found.setdefault(name, path)
    return found


def look(path: Path, given: Mapping[str, Source]) -> DataLook:
    """Reads the file once. `Invalid` for one that cannot be read."""
    records = _iter_fields(path)
    first = next(records, None)
    if first is None:
        raise Invalid(f"{path}: the file is empty")
    guess = guess_columns(first, given)
    _split_solution(guess, first)
    answers, count, outputs = AnswerGuess(), 0, 0
    columns = dict.fromkeys(first)
    for fields in chain([first], records):
        count += 1
        columns |= dict.fromkeys(fields)
        answers.add(_get_label(fields, guess))
        outputs += _count_outputs(fields, guess)
    column = guess.fields.get("label", "label")
    if guess.has_choices and answers.are_places and isinstance(column, str):
        guess.fields["label"] = f"choices[{column}]"
    return DataLook(count, list(columns), guess, answers, first, outputs)


def _split_solution(guess: ColumnGuess, first: Mapping[str, Any]) -> None:
    """A label that is a solution with its answer behind a mark is both."""
    column = guess.fields.get("label", "label")
    value = first.get(column) if isinstance(column, str) else None
    if not isinstance(value, str) or guess.has_outputs or guess.form is not None:
        return
    if SOLUTION_MARK in value.strip()[1:]:
        guess.fields["label"] = f"{column} >> {SOLUTION_MARK}"
        guess.fields["rationales"] = f"{column} << {SOLUTION_MARK}"


def _iter_fields(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open("rb") as data:
            for record in read_records(data):
                yield record.fields
    except Invalid as error:
        raise Invalid(f"{path}: {error.message}", code=error.code) from error


def _get_label(fields: Mapping[str, Any], guess: ColumnGuess) -> Any:
    if guess.form is None:
        source = guess.fields.get("label", "label")
        return _read_column(fields, source) if isinstance(source, str) else None
    if "completion" in fields:
        return fields["completion"]
    turns = fields.get("preferred_output") or fields.get("messages") or fields.get("conversations")
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, Mapping) or last.get("role", last.get("from")) not in (
        "assistant",
        "gpt",
    ):
        return None
    return last.get("content", last.get("value"))


def _read_column(fields: Mapping[str, Any], source: str) -> Any:
    for side in (" << ", " >> "):
        column, found, mark = source.partition(side)
        value = fields.get(column)
        if found and isinstance(value, str):
            before, _, behind = value.rpartition(mark)
            return (before if side == " << " else behind).strip()
    if source.endswith(".text.0"):
        value = fields.get(source.removesuffix(".text.0"))
        texts = value.get("text") if isinstance(value, Mapping) else None
        return texts[0] if isinstance(texts, list) and texts else None
    return fields.get(source)


def _count_outputs(fields: Mapping[str, Any], guess: ColumnGuess) -> int:
    if guess.form is not None:
        return _has_reasoning(fields)
    for name in ("teacher_output", "teacher_outputs", "outputs", "rationales"):
        value = _read_column(fields, str(guess.fields.get(name, name)))
        if value:
            return len(value) if isinstance(value, list) else 1
    return 0


def _has_reasoning(fields: Mapping[str, Any]) -> int:
    turns = fields.get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else None
    if not isinstance(last, Mapping):
        return 0
    content = last.get("content")
    is_thought = isinstance(content, str) and "</think>" in content
    return int(bool(last.get("reasoning_content") or last.get("reasoning") or is_thought))
