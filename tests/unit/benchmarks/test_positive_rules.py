"""The counts of positives by rule are those that can be made by hand."""

from __future__ import annotations

import io
import json

from benchmarks.negatives.positive_rules import RULES, count
from qcrd.questions.rows import read_rows
from qcrd.records.specs.task import AnswerKind, TaskSpec

LINES = [
    # the vote of three is wrong; the vote of three is right, with one against; one output, wrong
    {
        "question": "1 + 1",
        "label": "2",
        "teacher_outputs": ["So 3.\nAnswer: 3"] * 2 + ["Answer: 2"],
    },
    {
        "question": "2 + 2",
        "label": "4",
        "teacher_outputs": ["Two twos.\nAnswer: 4", "Twice two.\nAnswer: 4", "Odd.\nAnswer: 5"],
    },
    {"question": "3 + 3", "label": "6", "teacher_outputs": ["So 7.\nAnswer: 7"]},
]


def test_counts_by_hand() -> None:
    body = io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in LINES))
    rows = list(read_rows(body))
    found = {rule: count(rows, TaskSpec(answer=AnswerKind.NUMBER), rule) for rule in RULES}
    assert found["majority"]["with_positive"] == 3
    assert found["majority"]["positives_wrong"] == 3
    assert found["gold"]["positives_wrong"] == found["majority_and_gold"]["positives_wrong"] == 0
    assert found["majority_and_gold"]["with_positive"] == 1
    assert found["majority_and_gold"]["both_sides"] == 1
