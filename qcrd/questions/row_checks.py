"""Checks of a file's rows against the job that uses it, the same at creation and in a preview."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qcrd.errors import Invalid
from qcrd.questions.field_map import list_columns
from qcrd.questions.label_checks import check_row
from qcrd.questions.rows import QuestionRow
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import TaskSpec

MIN_TRAINING_QUESTIONS = 2
"""Questions that must be left to train on: with one, a batch has nothing to contrast."""


def needs_labels(settings: MethodSpec, param: str) -> bool:
    """Whether each record of the file that field `param` names needs a label."""
    return settings.label_mode == "gold" or param != "training_file"


def check_rows(
    rows: Iterable[QuestionRow], task: TaskSpec, param: str, *, needs_label: bool
) -> Iterator[QuestionRow]:
    """The rows. `Invalid` at one with a label that no answer to this task can have, and with
    `needs_label` at one without any."""
    for row in rows:
        if needs_label and row.question.label is None:
            raise row.make_error(
                f'`label` is missing: give the right answer, "label": "…" (in `{param}`)'
                f"{_list_metadata(row)}",
                code="missing_label",
                param=param,
            )
        check_row(row, task, param)
        yield row


def _list_metadata(row: QuestionRow) -> str:
    """The columns of which one may be the label."""
    if not row.question.metadata:
        return ""
    return f"; `task.fields.label` may name one of {list_columns(row.question.metadata)}"


def check_enough_questions(count: int, settings: MethodSpec, *, own_validation: bool) -> None:
    held_out = 0 if own_validation else settings.hyperparameters.get_holdout_size(count)
    if count - held_out < MIN_TRAINING_QUESTIONS:
        held_out_note = "" if own_validation else f" besides the {held_out} held out for validation"
        raise Invalid(
            f"`training_file` has {count} question(s): at least {MIN_TRAINING_QUESTIONS} are "
            "needed to "
            f"train on{held_out_note}; add questions",
            param="training_file",
            code="too_few_questions",
        )
