"""What a job would make of its files, told before it is there."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from qcrd.errors import Invalid
from qcrd.questions.preview import Preview, preview_job
from qcrd.records.base import parse_record
from qcrd.records.specs.spec import JobSpec


def sums(count: int, start: int = 0, **more: Any) -> list[dict[str, Any]]:
    return [
        {"question": f"{n} + 1?", "label": str(n + 1), **more} for n in range(start, start + count)
    ]


def look(
    files: dict[str, list[dict[str, Any]]], *, max_read_rows: int = 5_000, **settings: Any
) -> Preview:
    body: dict[str, Any] = {name: name for name in files if name.endswith("_file")}
    method = {"task": {"answer": "number"}, **settings}
    spec = parse_record(
        JobSpec, {"model": "tiny", **body, "method": {"type": "qcrd", "qcrd": method}}
    )
    return preview_job(
        spec,
        lambda name: io.BytesIO("\n".join(map(json.dumps, files[name])).encode()),
        max_read_rows=max_read_rows,
    )


def test_counts_and_the_first_example() -> None:
    found = look(
        {"training_file": sums(6, rationales=["One more."])},
        rationales={"import": "training_file"},
    )
    assert found.files["training_file"].questions == 6
    assert found.counts is not None
    assert (found.counts.parsed, found.counts.unparseable) == (6, 0)
    assert found.first == (("predict: 0 + 1?", "1"), ("explain: 0 + 1?", "One more."))
    assert found.warnings == ()


def test_each_file_is_checked_and_compared() -> None:
    files = {"training_file": sums(6), "test_file": sums(3, 5)}
    assert look(files).warnings == ("1 test questions are also training questions",)
    with pytest.raises(Invalid, match=r"line 3: label 'many' is not a number .*test_file"):
        look({**files, "test_file": [*sums(2, 10), {"question": "a?", "label": "many"}]})
    with pytest.raises(Invalid, match="at least 2 are needed"):
        look({"training_file": sums(1)})


def test_outputs_that_nobody_takes_are_told() -> None:
    found = look({"training_file": sums(6, teacher_output="Answer: 1")})
    assert "6 lines of the training file have outputs, which are not used" in found.warnings[0]


def test_of_many_questions_the_first_are_read_in_whatever_order_outputs_come() -> None:
    outputs = [
        {"question": f"{n} + 1?", "teacher_output": f"One more.\nAnswer: {n + 1}"}
        for n in reversed(range(20))
    ]
    found = look(
        {"training_file": sums(20), "paid": outputs},
        max_read_rows=4,
        rationales={"import": "paid"},
    )
    assert found.files["training_file"].questions == 20
    assert found.counts is not None
    assert found.counts.parsed == 4
