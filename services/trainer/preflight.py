"""Whether the student's tokenizer can say the labels at all: asked before the first step.

What it cannot say would be trained on all the same, and every such answer counted as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from qcrd.errors import Invalid
from qcrd.method.answers import canonicalize
from qcrd.method.student.base import Student
from qcrd.records.rationales import Question
from qcrd.records.spec import JobSpec, TaskSpec

SHOWN = 60
"""Characters of a label, or of what became of it, in an error."""


def check_labels(student: Student, labels: Iterable[tuple[str, Question]], spec: JobSpec) -> None:
    """`Invalid` at the first label that the student could learn but never answer.

    `labels` are those trained on, as written, each with its question.
    """
    settings = spec.settings
    room = settings.hyperparameters.max_label_tokens
    # Equal labels of questions with equal options are one: reading them back is the same.
    distinct = {(label, asked.choices): asked for label, asked in labels}
    for (label, _), asked in distinct.items():
        ids = _own_ids(student, label)
        _sayable(student, label, ids, settings.task, asked)
        if len(ids) > room:
            param = f"method.{spec.method}.hyperparameters.max_label_tokens"
            raise Invalid(
                f"`{param}` is {room}, but label {label[:SHOWN]!r} takes {len(ids)} tokens of "
                f"the student's: set it to at least {len(ids) + 1}, one more for the end",
                param=param,
                code="label_too_long",
            )


def _own_ids(student: Student, label: str) -> list[int]:
    """The label's tokens without the one that ends it."""
    ids = student.tokenize_target(label)
    tokenizer = student.tokenizer
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    return ids[:-1] if ids and ids[-1] in ends else ids


def _sayable(student: Student, label: str, ids: list[int], task: TaskSpec, asked: Question) -> None:
    """Spaces and case may differ when it is read back; the answer it stands for may not."""
    read_back = str(student.tokenizer.decode(ids, skip_special_tokens=True)).strip()
    if student.tokenizer.unk_token_id in ids:
        became = "has characters or words that are unknown to it"
    elif canonicalize(read_back, task, asked) != canonicalize(label, task, asked):
        became = f"reads back as {read_back[:SHOWN]!r}"
    else:
        return
    raise Invalid(
        f"label {label[:SHOWN]!r} cannot be said by the tokenizer of {_name(student)}: "
        f"it {became}; write the label differently or take another base model",
        param="training_file",
        code="unsayable_label",
    )


def _name(student: Student) -> str:
    kind = type(student.tokenizer).__name__
    return f"the student ({kind}, {len(student.tokenizer):,} tokens)"
