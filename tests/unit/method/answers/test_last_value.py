"""The last value of texts that are known to end in their answer."""

from __future__ import annotations

from typing import Any

import pytest

from qcrd.method.answers import read_last_value
from qcrd.records.rationales import Question
from qcrd.records.specs.task import TaskSpec

LABELS = {"answer": "label", "labels": ["entailment", "neutral", "contradiction"]}
ABC = {"answer": "label", "labels": ["A", "B", "C"]}
QUESTION = Question(id="q", text="Which?", choices=("a hotel", "a farm"))


@pytest.mark.parametrize(
    ("task", "text", "answer"),
    [
        ({"answer": "number"}, "2 and 3, so there are 5 apples left.", "5"),
        ({"answer": "number"}, "Thus 1,200 - 0.5 = $1,199.50.", "2399/2"),
        ({"answer": "number"}, "It falls by 3 to -4.", "-4"),
        ({"answer": "number"}, "nothing is counted", None),
        ({"answer": "number"}, "They are 1.5 million.", None),
        ({"answer": "number"}, "It is 12 (not 13).", None),
        ({"answer": "number"}, "It lies between 3 and 5.", None),
        ({"answer": "number"}, "At 10:30.", None),
        ({"answer": "number"}, "It is minus 12.", None),
        ({"answer": "number"}, "That makes 12 \u00d7 10^3.", None),
        (LABELS, "It is not an entailment.", None),
        ({"answer": "math"}, "so $x = 3$ and then $\\frac{1}{2}$.", "1/2"),
        ({"answer": "text"}, 'Putting them together, we get "yajc".', "yajc"),
        ({"answer": "text"}, "Concatenated: yajc", "yajc"),
        ({"answer": "text"}, "they are put together", None),
        (LABELS, "Cats are animals. It is an entailment.", "entailment"),
        (LABELS, "Neither neutral nor contradiction fits.", None),
        (ABC, "She holds (B). Bob gives it away. In the end it is (C).", "C"),
        ({"answer": "choice"}, "A hotel has rooms. Cows live on a farm.", "a farm"),
    ],
)
def test_the_last_value_counts(task: dict[str, Any], text: str, answer: str | None) -> None:
    parsed = read_last_value(text, TaskSpec.model_validate(task), QUESTION)
    assert (parsed and parsed.answer) == answer
    if parsed is not None:
        assert parsed.rationale == text
