"""From raw outputs to positive and negative knowledge: parse, vote, split, count (METHOD 1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qcrd.method.answers import ParsedOutput, canonicalize, parse_output
from qcrd.method.self_consistency import majority_vote, split_rationales
from qcrd.records.rationales import (
    Question,
    Rationale,
    RationaleCounts,
    RationaleItem,
    TestItem,
    Vote,
)
from qcrd.records.spec import MethodSpec
from qcrd.runtime.keys import digest

Outputs = Mapping[str, tuple[str, ...]]
"""Raw teacher outputs per question id; questions without any may be missing."""


def item(question: Question, outputs: Sequence[str], spec: MethodSpec) -> RationaleItem:
    gold = _gold(question, spec)
    parsed = [_parsed(output, question, gold, spec) for output in outputs]
    ballot = majority_vote([one.answer if one else None for one in parsed], salt=question.id)
    rationales = [_rationale(question, one) for one in parsed if one]
    positives, negatives = split_rationales(rationales, ballot, spec.rationales.positive_rule, gold)
    return RationaleItem(
        question=question,
        label=question.label if spec.label_mode == "gold" else ballot.answer,
        vote=ballot,
        positives=positives,
        negatives=negatives,
        gold=gold,
    )


def held_back(question: Question, outputs: Sequence[str] | None, spec: MethodSpec) -> TestItem:
    """A question to be judged on; `outputs` None when the teacher was not asked this one."""
    gold = _gold(question, spec)
    assert gold is not None, "a job is refused while a held-back question has no usable label"
    return TestItem(
        question=question,
        gold=gold,
        teacher_answer=None if outputs is None else _vote(question, outputs, spec).answer,
        teacher_asked=outputs is not None,
    )


def count(items: Iterable[RationaleItem], *, reused: int) -> RationaleCounts:
    """A tie is counted as one and as nothing else: its winner was drawn, not voted."""
    sums = dict.fromkeys(
        ("questions", "outputs", "parsed", "unparseable", "ties", "positives", "negatives"), 0
    )
    right = wrong = 0
    for one in items:
        parsed = sum(one.vote.counts.values())
        sums["questions"] += 1
        sums["outputs"] += parsed + one.vote.unparseable
        sums["parsed"] += parsed
        sums["unparseable"] += one.vote.unparseable
        sums["ties"] += one.vote.tie
        sums["positives"] += len(one.positives)
        sums["negatives"] += len(one.negatives)
        if one.gold is not None and one.vote.answer is not None and not one.vote.tie:
            right += one.vote.answer == one.gold
            wrong += one.vote.answer != one.gold
    return RationaleCounts(**sums, majority_right=right, majority_wrong=wrong, reused=reused)


def shares(counts: RationaleCounts) -> dict[str, Any]:
    """What an event shows: the counts without the zeros."""
    return {name: value for name, value in counts.model_dump().items() if value}


def _gold(question: Question, spec: MethodSpec) -> str | None:
    return None if question.label is None else canonicalize(question.label, spec.task, question)


def _vote(question: Question, outputs: Sequence[str], spec: MethodSpec) -> Vote:
    parsed = [parse_output(output, spec.task, question) for output in outputs]
    return majority_vote([one.answer if one else None for one in parsed], salt=question.id)


def _parsed(
    output: str, question: Question, gold: str | None, spec: MethodSpec
) -> ParsedOutput | None:
    parsed = parse_output(output, spec.task, question)
    trusted = spec.rationales.import_file and spec.rationales.imported_answer == "label"
    if not trusted or gold is None or (parsed and parsed.answer == gold):
        return parsed
    # The source kept only outputs that end in the label, in whatever words.
    return ParsedOutput(output.strip(), gold) if output.strip() else None


def _rationale(question: Question, parsed: ParsedOutput) -> Rationale:
    """Equal texts share an id, and so the judge's score."""
    return Rationale(
        id=digest(question.id, parsed.rationale),
        question_id=question.id,
        text=parsed.rationale,
        answer=parsed.answer,
    )
