"""Readable outputs: the check that there are enough of them before a student is trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from qcrd.errors import Invalid
from qcrd.method.answers import ParsedOutput, parse_output, read_last_value
from qcrd.questions.labelling import OutputsByQuestion
from qcrd.questions.rows import QuestionRow
from qcrd.records.rationales import Question, RationaleCounts
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.task import TaskSpec

SHOWN_OUTPUTS = 3
MAX_SHOWN_CHARS = 200
TRIED_OUTPUTS = 500
"""Unreadable outputs on which other settings are tried, for the advice."""


def check_readable(
    spec: JobSpec,
    rows: Iterable[QuestionRow],
    outputs: OutputsByQuestion,
    counts: RationaleCounts,
) -> None:
    """`Invalid` when more of the outputs than `rationales.max_unreadable_share` have no readable
    answer, with some of them and the setting that would read them."""
    if not counts.outputs and spec.settings.rationales.import_file is not None:
        path = f"method.{spec.method}.rationales.import"
        raise Invalid(
            f"`{path}`: the file has no output for any training question, so there is no rationale "
            "to train on: lines are matched by the text of `question` and `choices`",
            param=path,
            code="nothing_imported",
        )
    allowed = spec.settings.rationales.max_unreadable_share * counts.outputs
    if not counts.outputs or (counts.parsed and counts.unparseable <= allowed):
        return
    task = spec.settings.task
    all_unread = (
        (row.question, text)
        for row in rows
        for text in outputs.get(row.question.id, ())
        if parse_output(text, task, row.question) is None
    )
    unread = list(islice(all_unread, TRIED_OUTPUTS))
    shown = "; ".join(repr(_shorten(text)) for _, text in unread[:SHOWN_OUTPUTS])
    path = f"method.{spec.method}.rationales"
    what = (
        "a student would be trained on the rest" if counts.parsed else "there is nothing to teach"
    )
    kept = "" if spec.settings.rationales.import_file else "What was paid is kept. "
    raise Invalid(
        f"{counts.unparseable} of the {counts.outputs} outputs have no readable answer, so "
        f"{what}: {shown}. {_advise(spec, task, unread)} {kept}"
        f"`{path}.max_unreadable_share` says how many may be unreadable",
        param=path,
        code="nothing_readable" if not counts.parsed else "mostly_unreadable",
    )


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_CHARS else f"{text[:MAX_SHOWN_CHARS]}…"


def _advise(spec: JobSpec, task: TaskSpec, tried: Sequence[tuple[Question, str]]) -> str:
    """The setting that reads most of these, with how many, where there is one."""
    path = f"method.{spec.method}.rationales"
    if spec.settings.rationales.import_file is None:
        return (
            "Have the task's examples and instruction ask for a line `Answer: …`, and compare "
            f"`{path}.stop` and `{path}.max_new_tokens` with where these end."
        )
    label = sum(question.label is not None for question, _ in tried)
    last = _count_right(tried, task, read_last_value)
    advice = []
    if label:
        advice.append(
            f"`{path}.answers: label` takes {label} of {len(tried)} as explanations of their "
            "lines' labels"
        )
    if last:
        advice.append(
            f"`{path}.answers: last` takes the last value, which is the label in {last} of "
            f"{len(tried)}"
        )
    return f"{'; '.join(advice)}." if advice else "No other setting reads them either."


def _count_right(
    outputs: Sequence[tuple[Question, str]], task: TaskSpec, read: Callable[..., Any]
) -> int:
    def is_right(question: Question, text: str) -> bool:
        parsed: ParsedOutput | None = read(text, task, question)
        if parsed is None or question.label is None:
            return False
        label = parse_output(f"x\n<Answer>: {question.label}", task, question)
        return label is not None and label.answer == parsed.answer

    return sum(is_right(question, text) for question, text in outputs)
