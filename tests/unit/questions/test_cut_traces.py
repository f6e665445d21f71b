"""Traces that are cut to a rationale's length are counted, and no others."""

from __future__ import annotations

import io
import json

from qcrd.questions.data_warnings import find_cut_traces
from qcrd.questions.rows import QuestionRow, read_rows
from qcrd.records.specs.spec import MethodSpec

LONG = "We add the two numbers step by step. " * 20
OUTPUTS = {
    "long trace": f"<think>{LONG}</think>Answer: 3",
    "short trace": "<think>One and two are three.</think>Answer: 3",
    "long trace, reply explains": f"<think>{LONG}</think>One and two are three.\nAnswer: 3",
    "no trace": f"{LONG}\nAnswer: 3",
    "long trace, no answer": f"<think>{LONG}</think>",
}


def count(source: str) -> int:
    lines = b"".join(
        json.dumps({"question": name, "label": "3"}).encode() + b"\n" for name in OUTPUTS
    )
    rows: list[QuestionRow] = list(read_rows(io.BytesIO(lines)))
    spec = MethodSpec.model_validate(
        {
            "task": {"answer": "number"},
            "rationales": {"from": source},
            "hyperparameters": {"max_rationale_tokens": 32},
        }
    )
    outputs = {row.question.id: (OUTPUTS[row.question.text],) for row in rows}
    found = list(find_cut_traces(rows, outputs, spec))
    for warning in found:
        assert "max_rationale_tokens" in warning.message
        assert warning.data["outputs"] == len(OUTPUTS)
    return found[0].data["cut_traces"] if found else 0


def test_only_a_trace_that_is_the_rationale_and_was_cut_counts() -> None:
    assert count("auto") == 1
    assert count("reasoning") == 2
    assert count("explanation") == 0
