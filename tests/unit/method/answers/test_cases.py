"""The repository's own cases, one line each of `cases.jsonl`, as a careful person reads them.

The form of the lines and what counts as equal are those of the project's shared cases.
"""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

from qcrd.errors import QcrdError
from qcrd.method.answer_reading.options import find_same_labels
from qcrd.method.answers import parse_output
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

CASES = Path(__file__).parent / "cases.jsonl"
TAGGED = "It follows from what is given.\n<Answer>: {}"
MIN_RIGHT = 0.95
"""Some harmless losses may remain; a wrong value is never harmless."""


def test_the_cases_are_read_and_none_wrongly() -> None:
    cases = [json.loads(line) for line in CASES.read_text("utf-8").split("\n") if line.strip()]
    outcomes = {case["id"]: _judge(case) for case in cases}
    counts = Counter(outcome for outcome, _ in outcomes.values())
    shown = "\n".join(
        f"{name} {outcome}: {said!r}"
        for name, (outcome, said) in outcomes.items()
        if outcome != "right"
    )
    assert counts["wrong"] == 0, shown
    assert counts["right"] >= MIN_RIGHT * len(cases), shown


def _judge(case: dict[str, Any]) -> tuple[str, object]:
    if case["kind"] == "equal":
        return _judge_pair(case)
    said = _read(case["task"], case["output"])
    if case["answer"] is None:
        return ("right" if said is None else "wrong"), said
    if said is None:
        return "lost", said
    if not _is_same(case["task"]["answer"], said[0], case["answer"]):
        return "wrong", said
    expected = case.get("rationale")
    if expected is not None and expected.split() != said[1].split():
        return "another rationale", said
    return "right", said


def _judge_pair(case: dict[str, Any]) -> tuple[str, object]:
    if not case["equal"] and find_same_labels(tuple(case["task"].get("labels", ()))) is not None:
        return "right", "refused when a job is created"
    try:
        left, right = (_read(case["task"], TAGGED.format(case[side])) for side in ("left", "right"))
    except (QcrdError, ValueError) as refusal:
        return ("right" if not case["equal"] else "refused"), refusal
    equal = left is not None and right is not None and left[0] == right[0]
    if equal == case["equal"]:
        return "right", (left, right)
    return ("wrong" if equal else "lost"), (left, right)


def _read(task: dict[str, Any], output: str) -> tuple[str, str] | None:
    fields = {name: task[name] for name in ("answer", "labels") if name in task}
    question = Question(id="q", text="?", choices=tuple(task.get("choices", ())))
    parsed = parse_output(output, TaskSpec.model_validate(fields), question)
    return (parsed.answer, parsed.rationale) if parsed else None


def _is_same(kind: str, said: str, expected: str) -> bool:
    match kind:
        case AnswerKind.NUMBER:
            return Fraction(said) == Fraction(expected)
        case AnswerKind.TEXT:
            question = Question(id="q", text="?")
            read = parse_output(TAGGED.format(expected), TaskSpec(), question)
            return read is not None and read.answer == said
        case _:
            return said == expected
