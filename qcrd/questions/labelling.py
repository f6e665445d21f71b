"""Labels raw outputs as positive and negative rationales: parse, vote, split (METHOD 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Literal

from qcrd.method.answers import ParsedOutput, canonical, parse_output, read_last_value
from qcrd.method.reasoning import shorten_trace, split_reasoning
from qcrd.method.self_consistency import majority_vote, split_rationales
from qcrd.method.structured_answers import unfold_structured_reply
from qcrd.questions.item_tally import ItemTally
from qcrd.records.rationales import (
    Question,
    Rationale,
    RationaleCounts,
    RationaleItem,
    TestItem,
    Vote,
)
from qcrd.records.specs.spec import MethodSpec
from qcrd.runtime.keys import digest


@dataclass(frozen=True)
class Contradiction:
    """A text that explains its line's `label` and ends in another `answer`, both canonical."""

    question_id: str
    output: str
    answer: str
    label: str


OutputsByQuestion = Mapping[str, tuple[str, ...]]
"""Raw teacher outputs per question id; questions without any may be missing."""


AnswerReading = Literal["parse", "label", "last"]
"""Where the answer of an output is: marked in it, the question's label, or its last value."""
PARSED: AnswerReading = "parse"


def build_item(
    question: Question,
    outputs: Sequence[str],
    spec: MethodSpec,
    readings: Sequence[AnswerReading] = (),
    contradictions: list[Contradiction] | None = None,
) -> RationaleItem:
    """`readings` are those of the outputs; without them all are parsed. Texts that explain the
    label and end in another answer are positives of the label, and told in `contradictions`."""
    gold_label = _canonical_gold_label(question, spec)
    parsed = []
    for output, reading in zip(outputs, readings or repeat(PARSED), strict=False):
        if reading == "label" and gold_label is not None:
            one, other = _read_explanation(output, question, gold_label, spec)
            parsed.append(one)
            if other is not None and contradictions is not None:
                contradictions.append(Contradiction(question.id, output, other, gold_label))
        else:
            parsed.append(_read_output(output, question, spec, reading))
    vote_result = majority_vote([one.answer if one else None for one in parsed], salt=question.id)
    rationales = [_make_rationale(question, one) for one in parsed if one]
    positives, negatives = split_rationales(
        rationales, vote_result, spec.rationales.positive_rule, gold_label
    )
    return RationaleItem(
        question=question,
        label=question.label if spec.label_mode == "gold" else vote_result.answer,
        vote=vote_result,
        positives=positives,
        negatives=negatives,
        gold=gold_label,
    )


def build_holdout_item(
    question: Question, outputs: Sequence[str] | None, spec: MethodSpec
) -> TestItem:
    """A test question; `outputs` is None when the teacher was not asked it."""
    gold_label = _canonical_gold_label(question, spec)
    assert gold_label is not None, "a job is refused while a held-out question has no usable label"
    return TestItem(
        question=question,
        gold=gold_label,
        teacher_answer=None
        if outputs is None
        else _vote_on_outputs(question, outputs, spec).answer,
        teacher_asked=outputs is not None,
    )


def count_outcomes(items: Iterable[RationaleItem], *, reused: int) -> RationaleCounts:
    """Count the votes, as `ItemTally` does."""
    tally = ItemTally()
    for item in items:
        tally.add(item)
    return tally.make_counts(reused=reused)


def drop_zero_counts(counts: RationaleCounts) -> dict[str, Any]:
    """The counts for an event, without the zeros."""
    return {name: value for name, value in counts.model_dump().items() if value}


def _canonical_gold_label(question: Question, spec: MethodSpec) -> str | None:
    return None if question.label is None else canonical(question.label, spec.task, question)


def _vote_on_outputs(question: Question, outputs: Sequence[str], spec: MethodSpec) -> Vote:
    parsed = [parse_teacher_output(output, question, spec) for output in outputs]
    return majority_vote([one.answer if one else None for one in parsed], salt=question.id)


def _read_output(
    output: str, question: Question, spec: MethodSpec, reading: AnswerReading
) -> ParsedOutput | None:
    # What the text marks as its answer says more than where it stands.
    marked = parse_teacher_output(output, question, spec)
    if marked is None and reading == "last":
        return read_last_value(output, spec.task, question)
    return marked


def _read_explanation(
    output: str, question: Question, gold_label: str, spec: MethodSpec
) -> tuple[ParsedOutput | None, str | None]:
    """The text as an explanation of the label, however it words that, and the other answer that it
    ends in, where it does."""
    parsed = parse_teacher_output(output, question, spec)
    if parsed is not None and parsed.answer == gold_label:
        return parsed, None
    explained = ParsedOutput(output.strip(), gold_label) if output.strip() else None
    return explained, None if parsed is None else parsed.answer


def parse_teacher_output(output: str, question: Question, spec: MethodSpec) -> ParsedOutput | None:
    """The answer of the reply, and as rationale what `rationales.from` says. An answer that nothing
    explains is none: a student could only guess it too."""
    trace, reply = split_reasoning(output)
    reply = unfold_structured_reply(reply)
    parsed = parse_output(reply, spec.task, question)
    if not trace or (parsed and spec.rationales.source != "reasoning"):
        return None if spec.rationales.source == "reasoning" and not trace else parsed
    if spec.rationales.source == "explanation":
        return None
    # The reply has no explanation of its own, or it is not wanted.
    answered = parse_output(f"{trace}\n{reply}", spec.task, question)
    room = spec.hyperparameters.max_rationale_tokens
    return ParsedOutput(shorten_trace(trace, room), answered.answer) if answered else None


def is_cut_trace(output: str, question: Question, spec: MethodSpec) -> bool:
    """Whether the rationale of `output` is its trace, and not all of it."""
    trace, _ = split_reasoning(output)
    if trace == shorten_trace(trace, spec.hyperparameters.max_rationale_tokens):
        return False  # nothing is parsed for most outputs
    parsed = parse_teacher_output(output, question, spec)
    return parsed is not None and trace.endswith(parsed.rationale)


def _make_rationale(question: Question, parsed: ParsedOutput) -> Rationale:
    """A rationale's id. Equal texts share it, and so the judge's score."""
    return Rationale(
        id=digest(question.id, parsed.rationale),
        question_id=question.id,
        text=parsed.rationale,
        answer=parsed.answer,
    )
