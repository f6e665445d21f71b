"""Warnings about a job's data, sent before anything is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qcrd.method.answers import canonical, comparison_id
from qcrd.questions.rows import QuestionRow
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import AnswerKind
from qcrd.runtime.jobs.stage_context import StageContext

MAX_SHOWN_LABELS = 20


def warn_about_unseen_labels(stage: StageContext, training: Sequence[QuestionRow]) -> None:
    """Warn of the task's labels that no training question has: the student never learns them."""
    unseen = _list_unseen_labels(stage.job.spec.settings, training)
    if not unseen:
        return
    shown = ", ".join(repr(label) for label in unseen[:MAX_SHOWN_LABELS])
    rest = ", …" if len(unseen) > MAX_SHOWN_LABELS else ""
    message = (
        f"no training question has the label {shown}{rest}: the student never sees "
        f"{'it' if len(unseen) == 1 else 'them'}; add questions, or take the label out of the task"
    )
    data = {"unseen_labels": unseen[:MAX_SHOWN_LABELS], "unseen": len(unseen)}
    stage.events.append(stage.job.id, message, level="warn", data=data, once="unseen-labels")


def warn_about_overlap(
    stage: StageContext,
    training: Sequence[QuestionRow],
    held_out: Mapping[str, Sequence[QuestionRow]],
) -> None:
    for name, rows in held_out.items():
        if overlap := count_shared_questions(training, rows):
            warn(
                stage,
                f"{overlap} {name} questions are also training questions",
                once=f"overlap-{name}",
                shared=overlap,
            )


def warn_about_half_questions(stage: StageContext, rows: Sequence[QuestionRow]) -> None:
    """Warn of questions whose template has a column that their record has nothing in."""
    if lacking := [row for row in rows if row.lacks]:
        first = lacking[0]
        warn(
            stage,
            f"{len(lacking)} questions lack a column of `task.fields.question` and are asked "
            f"without it (first: {first.unit} {first.line_number}, `{first.lacks[0]}`)",
            once="half-questions",
            lacking=len(lacking),
        )


def warn_about_unused_outputs(stage: StageContext, rows: Sequence[QuestionRow]) -> None:
    """Warn of outputs in the training file of a job that asks its teacher all the same."""
    if unused := sum(bool(row.outputs) for row in rows):
        warn(
            stage,
            f"{unused} lines of the training file have outputs, which are not used: the teacher is "
            f"asked. `method.{stage.job.spec.method}.rationales.import` with this file's id takes "
            "them instead",
            once="unused-outputs",
            unused=unused,
        )


def warn(stage: StageContext, message: str, *, once: str | None = None, **data: object) -> None:
    stage.events.append(stage.job.id, message, level="warn", data=dict(data), once=once)


def count_shared_questions(training: Sequence[QuestionRow], held_out: Sequence[QuestionRow]) -> int:
    """How many of `held_out` are training questions too, but for white space, case and the form of
    characters; paraphrases are not counted."""
    training_ids = {_get_comparison_id(row) for row in training}
    return sum(_get_comparison_id(row) in training_ids for row in held_out)


def _get_comparison_id(row: QuestionRow) -> str:
    return comparison_id(row.question.text, row.question.choices)


def _list_unseen_labels(spec: MethodSpec, training: Sequence[QuestionRow]) -> list[str]:
    if spec.task.answer is not AnswerKind.LABEL or spec.label_mode != "gold":
        return []
    seen = {
        canonical(row.question.label, spec.task, row.question)
        for row in training
        if row.question.label is not None
    }
    return [label for label in spec.task.labels if label not in seen]
