"""Checks before the first step that the student's tokenizer can represent every label.

A label that it cannot would be trained on all the same, and every such answer counted as wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

from qcrd.errors import Invalid
from qcrd.method.answers import canonicalize
from qcrd.method.student.base import Student
from qcrd.records.rationales import Question
from qcrd.records.spec import JobSpec, TaskSpec

MAX_SHOWN_CHARS = 60
"""Characters of a label, or of what became of it, in an error."""


def check_labels(student: Student, labels: Iterable[tuple[str, Question]], spec: JobSpec) -> None:
    """`Invalid` at the first label that the student cannot generate.

    `labels` are those trained on, as written, each with its question.
    """
    settings = spec.settings
    max_tokens = settings.hyperparameters.max_label_tokens
    # Equal labels of questions with equal options need one check.
    distinct = {(label, question.choices): question for label, question in labels}
    for (label, _), asked in distinct.items():
        ids = _label_token_ids(student, label)
        _check_representable(student, label, ids, settings.task, asked)
        if len(ids) > max_tokens:
            param = f"method.{spec.method}.hyperparameters.max_label_tokens"
            raise Invalid(
                f"`{param}` is {max_tokens}, but label {label[:MAX_SHOWN_CHARS]!r} takes "
                f"{len(ids)} tokens of "
                f"the student's: set it to at least {len(ids) + 1}, one more for the end",
                param=param,
                code="label_too_long",
            )


def _label_token_ids(student: Student, label: str) -> list[int]:
    """The label's tokens without the one that ends it."""
    ids = student.tokenize_target(label)
    tokenizer = student.tokenizer
    end_token_ids = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    return ids[:-1] if ids and ids[-1] in end_token_ids else ids


def _check_representable(
    student: Student, label: str, ids: list[int], task: TaskSpec, question: Question
) -> None:
    """`Invalid` unless the decoded label is the same answer; spaces and case may differ."""
    read_back = str(student.tokenizer.decode(ids, skip_special_tokens=True)).strip()
    if student.tokenizer.unk_token_id in ids:
        problem = "has characters or words that are unknown to it"
    elif canonicalize(read_back, task, question) != canonicalize(label, task, question):
        problem = f"reads back as {read_back[:MAX_SHOWN_CHARS]!r}"
    else:
        return
    raise Invalid(
        f"label {label[:MAX_SHOWN_CHARS]!r} cannot be said by the tokenizer of "
        f"{_describe_tokenizer(student)}: "
        f"it {problem}; write the label differently or take another base model",
        param="training_file",
        code="unsayable_label",
    )


def _describe_tokenizer(student: Student) -> str:
    tokenizer_class = type(student.tokenizer).__name__
    return f"the student ({tokenizer_class}, {len(student.tokenizer):,} tokens)"
