"""Shapes that options, marks and missing labels have in published data sets, with records of our
own."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from qcrd.errors import Invalid
from qcrd.questions.field_map import FieldMap
from qcrd.questions.rows import QuestionRow, RowBuilder, read_rows
from qcrd.runtime.data_files.records import SourceRecord


def read(*records: dict[str, Any], fields: FieldMap | None = None) -> list[QuestionRow]:
    return list(read_rows(io.BytesIO("\n".join(map(json.dumps, records)).encode()), fields))


@pytest.mark.parametrize(
    ("choices", "label", "expected"),
    [
        ([{"label": "A", "text": "oar"}, {"label": "B", "text": "net"}], "B", "net"),
        ([{"key": "1", "text": "oar"}, {"key": "2", "text": "net"}], "2", "net"),
        ([{"text": "oar"}, {"text": "net"}], 1, "net"),
        ({"A": "oar", "B": "net"}, "B", "net"),
        ({"a": "oar", "b": "net", "c": "rod"}, "net", "net"),
        ({"text": ["oar", "net"], "label": ["P", "Q"]}, "Q", "net"),
    ],
)
def test_options_come_in_several_shapes(choices: Any, label: Any, expected: str) -> None:
    (row,) = read({"question": "With what?", "choices": choices, "label": label})
    assert row.question.choices[:2] == ("oar", "net")
    assert row.question.label == expected


def test_an_object_of_other_keys_is_no_list_of_options() -> None:
    with pytest.raises(Invalid, match="`choices` must be a list of strings"):
        read({"question": "?", "choices": {"x": "oar", "y": "net"}, "label": "oar"})


def test_a_mark_may_have_several_words() -> None:
    fields: FieldMap = {
        "question": "query",
        "label": "response >> The answer is:",
        "rationales": "response << The answer is:",
    }
    (row,) = read({"query": "2 + 2?", "response": "Two twos.\nThe answer is: 4"}, fields=fields)
    assert (row.question.label, row.outputs) == ("4", ("Two twos.",))


def test_a_template_may_have_the_signs_of_a_part() -> None:
    (row,) = read({"a": 1, "b": 2, "label": "yes"}, fields={"question": "Is {a} != {b} ?"})
    assert row.question.text == "Is 1 != 2 ?"


def test_a_label_that_stands_for_none_leaves_its_record_out() -> None:
    builder = RowBuilder({"label": "gold != -1"})
    records = [{"question": f"{n}?", "gold": (0, 1, -1)[n % 3]} for n in range(6)]
    rows = [
        row for n, each in enumerate(records, 1) for row in builder.build(SourceRecord(n, each))
    ]
    assert [row.question.label for row in rows] == ["0", "1", "0", "1"]
    assert "2 records are left out" in " ".join(builder.summary.describe())
    assert "(first: line 3)" in " ".join(builder.summary.describe())


def test_of_several_columns_records_may_lack_some() -> None:
    fields: FieldMap = {"question": "q", "rationales": ("why_1", "why_2")}
    first, second = read(
        {"q": "a", "label": "x", "why_1": "as b"},
        {"q": "b", "label": "x", "why_1": "as c", "why_2": "as d"},
        fields=fields,
    )
    assert (first.outputs, second.outputs) == (("as b",), ("as c", "as d"))
    with pytest.raises(Invalid, match="there is no column `why_1`"):
        read({"q": "a", "label": "x"}, fields=fields)
