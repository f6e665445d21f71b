"""Checks before the first step of what the student's tokenizer makes of labels and questions.

A label that it cannot represent would be trained on all the same, and every such answer counted as
wrong; questions that are the same to it have one answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from qcrd.errors import Invalid
from qcrd.method.answers import canonical
from qcrd.method.prompts import EXPLAIN_PREFIX, format_question
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.task import TaskSpec
from qcrd.runtime.jobs.stage_context import StageContext
from services.trainer.data.training_dataset import TrainingDataset

MIN_UNKNOWN_SHARE = 0.05
"""Of the questions' tokens, from which on it is told."""
MAX_SHOWN_CHARS = 60
"""Characters of a label, or of what became of it, in an error."""


def check_labels(student: Student, labels: Iterable[tuple[str, Question]], spec: JobSpec) -> None:
    """`Invalid` at the first label that the student cannot generate.

    `labels` are those trained on, as written, each with its question.
    """
    settings = spec.settings
    max_tokens = min(settings.hyperparameters.max_label_tokens, student.max_answer_tokens)
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


def warn_about_cut_questions(
    stage: StageContext, student: Student, dataset: TrainingDataset
) -> None:
    """One event with the number of questions that are longer than the student reads."""
    task = stage.job.spec.settings.task
    held_out = (*dataset.validation.questions, *(item.question for item in dataset.test))
    texts = [
        *(example.text for example in dataset.examples),
        *(format_question(task, question) for question in held_out),
    ]
    cut = [text for text in texts if student.is_cut(EXPLAIN_PREFIX + text)]
    if not cut:
        return
    stage.events.append(
        stage.job.id,
        f"{len(cut)} of {len(texts)} questions are longer than the {student.max_question_tokens} "
        f"tokens that the student reads of one, and are cut; the first begins "
        f"{cut[0][:MAX_SHOWN_CHARS]!r}. The limit is `max_question_tokens`, or what the base "
        "model's window leaves beside the answer",
        level="warn",
        data={"cut_questions": len(cut), "max_question_tokens": student.max_question_tokens},
        once="questions-cut",
    )


def check_questions_differ(stage: StageContext, student: Student, dataset: TrainingDataset) -> None:
    """`Invalid` where all training questions are the same tokens to the student; one event where
    some are, or many tokens are unknown to it."""
    texts = list(dict.fromkeys(example.text for example in dataset.examples))
    rows = student.tokenize_prompts([EXPLAIN_PREFIX + text for text in texts])
    asked = Counter(map(tuple, rows))
    same = sum(count for count in asked.values() if count > 1)
    tokens = sum(map(len, rows))
    unknown = sum(row.count(student.tokenizer.unk_token_id) for row in rows) / max(1, tokens)
    unread = f", which does not know {unknown:.0%} of their tokens" if unknown else ""
    read = (
        f"{same} of {len(texts)} training questions read the same as another one to "
        f"{_describe_tokenizer(student)}{unread}: they differ in "
        f"{'those, or in ' if unread else ''}case, or in what is cut"
    )
    if len(texts) > 1 and len(asked) == 1:
        raise Invalid(
            f"`model`: {read}; nothing can be learned: take a base that knows their language",
            param="model",
            code="indistinct_questions",
        )
    if same or unknown >= MIN_UNKNOWN_SHARE:
        stage.events.append(
            stage.job.id,
            f"{read}; a base that knows their language would tell more of them apart",
            level="warn",
            data={"indistinct_questions": same, "unknown_share": unknown},
            once="questions-indistinct",
        )


def warn_about_chat_template(stage: StageContext, student: Student) -> None:
    """One event where the base has a chat template that `student.prompt: auto` could not use."""
    is_auto = stage.job.spec.settings.student.prompt == "auto"
    is_decoder = not student.model.config.is_encoder_decoder
    if not (is_auto and is_decoder and student.tokenizer.chat_template) or student.chat is not None:
        return
    stage.events.append(
        stage.job.id,
        "the base has a chat template, but a question cannot be put into a turn of it as it is: "
        "the student is asked as plain text; `student.prompt: chat` says why",
        level="warn",
        once="chat-template-unused",
    )


def _label_token_ids(student: Student, label: str) -> list[int]:
    """The label's tokens without the one that ends it."""
    ids = student.tokenize_target(Target(answer=label))
    return ids[:-1] if ids and ids[-1] in student.end_token_ids else ids


def _check_representable(
    student: Student, label: str, ids: list[int], task: TaskSpec, question: Question
) -> None:
    """`Invalid` unless the decoded label is the same answer; spaces and case may differ."""
    read_back = str(student.tokenizer.decode(ids, skip_special_tokens=True)).strip()
    if student.tokenizer.unk_token_id in ids:
        problem = "has characters or words that are unknown to it"
    elif canonical(read_back, task, question) != canonical(label, task, question):
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
