"""What a file was found to have, said once: counts, and the first example of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qcrd.records.job import DataSummary
from qcrd.runtime.data_files.records import SourceRecord, truncate

MAX_COLUMNS = 100


@dataclass
class FileSummary:
    """`columns` are those of all records, in their order, `extra` those that are no part of a
    question. `is_unmapped`: only a task's `fields` can say which are."""

    records: int = 0
    columns: dict[str, None] = field(default_factory=dict)
    extra: dict[str, None] = field(default_factory=dict)
    is_unmapped: bool = False
    is_chat: bool = False
    is_conversation: bool = False
    outputs: int = 0
    longest_label: int = 0
    spelled_labels: int = 0
    repeats: int = 0
    left_out: int = 0
    """Records whose label `task.fields.label` says is none: `label != -1`."""
    _first_left_out: str = ""
    _first_spelled: str = ""
    _first_repeat: str = ""

    def add_record(self, record: SourceRecord) -> None:
        self.records += 1
        _add_names(self.columns, record.fields)

    def add_columns(self, names: Mapping[str, Any]) -> None:
        _add_names(self.extra, names)

    def add_label(self, record: SourceRecord, given: Any, label: str | None) -> None:
        self.longest_label = max(self.longest_label, len((label or "").encode()))
        if label is None or isinstance(given, str):
            return
        self.spelled_labels += 1
        if not self._first_spelled:
            place = f"{record.unit} {record.number}"
            self._first_spelled = f"{place}: {truncate(given)!s} is `{truncate(label)}`"

    def add_left_out(self, record: SourceRecord) -> None:
        self.left_out += 1
        self._first_left_out = self._first_left_out or f"{record.unit} {record.number}"

    def add_repeat(self, number: int, first: int) -> None:
        self.repeats += 1
        if not self._first_repeat:
            self._first_repeat = f"{number} repeats {first}"

    def make_record(self, file_format: str) -> DataSummary:
        return DataSummary(
            format=file_format,
            columns=tuple(self.columns),
            notices=tuple(self.describe()),
            is_chat=self.is_chat,
            is_conversation=self.is_conversation,
            outputs=self.outputs,
            longest_label=self.longest_label,
        )

    def describe(self) -> list[str]:
        """A sentence for each thing that was done."""
        told = []
        if self.is_unmapped:
            told.append(
                f"none of the columns is `question`: a job says in `task.fields` which of "
                f"{_list(self.columns)} is what"
            )
        if self.is_chat:
            kind = "conversations" if self.is_conversation else "messages"
            told.append(f"{kind} are read as questions, the last reply of each as its label")
        if self.spelled_labels:
            told.append(
                f"{self.spelled_labels} labels are no texts and are spelled out (first: "
                f"{self._first_spelled})"
            )
        if self.left_out:
            told.append(
                f"{self.left_out} records are left out, as `task.fields.label` says of their label "
                f"(first: {self._first_left_out})"
            )
        if self.repeats:
            told.append(
                f"{self.repeats} records repeat a question and its label and are used once (first: "
                f"{self._first_repeat})"
            )
        if self.extra:
            told.append(f"kept beside the questions as metadata: {_list(self.extra)}")
        return told


def _add_names(names: dict[str, None], fields: Mapping[str, Any]) -> None:
    for name in fields:
        if len(names) < MAX_COLUMNS:
            names.setdefault(truncate(name))


def _list(names: Mapping[str, None]) -> str:
    return ", ".join(f"`{truncate(name)}`" for name in names)
