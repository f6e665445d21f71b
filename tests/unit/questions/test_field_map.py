"""Columns by other names, put together by a task's `fields`, and what is kept of the rest."""

from __future__ import annotations

import io
import json
from decimal import Decimal
from typing import Any

import pytest

from qcrd.errors import Invalid
from qcrd.questions.field_map import FieldMap
from qcrd.questions.rows import QuestionRow, RowBuilder, check_records, read_rows
from qcrd.runtime.data_files.records import SourceRecord

PAIR = {"premise": "Two cats sleep.", "hypothesis": "Cats sleep.", "gold": 0, "uid": "a1"}
FIELDS: FieldMap = {"question": "{premise}\\n{hypothesis}", "label": "gold"}


def encode(*records: dict[str, Any]) -> io.BytesIO:
    return io.BytesIO("\n".join(map(json.dumps, records)).encode())


def read(*records: dict[str, Any], fields: FieldMap | None = None) -> list[QuestionRow]:
    return list(read_rows(encode(*records), fields))


def test_a_template_joins_columns_and_the_rest_is_kept() -> None:
    (row,) = read(PAIR, fields=FIELDS)
    assert row.question.text == "Two cats sleep.\nCats sleep."
    assert row.question.label == "0"
    assert row.question.metadata == {"uid": "a1"}


def test_a_template_of_columns_that_have_nothing_is_no_question() -> None:
    with pytest.raises(Invalid, match="`question` is missing"):
        read(PAIR, {"premise": None, "hypothesis": ""}, fields={"question": "P: {premise}"})


@pytest.mark.parametrize(
    ("record", "fields", "found"),
    [
        ({"q": "a?", "answers": {"text": ["b", "c"]}}, {"label": "answers.text.0"}, "b"),
        ({"q": "a?", "answers": {"text": ["b", "c"]}}, {"label": "answers.text"}, "b, c"),
        ({"q": "a?", "a.b": "c"}, {"label": "a.b"}, "c"),
        ({"q": "a?", "s": "2 and 2. #### 4"}, {"label": "s >> ####"}, "4"),
        ({"q": "a?", "s": "a #### b #### 4"}, {"label": "s >> ####"}, "4"),
        ({"q": "a?", "s": "no mark"}, {"label": "s >> ####"}, None),
        ({"q": "a?", "n": 3.0}, {"label": "n"}, "3"),
        ({"q": "a?", "n": 2.5}, {"label": "n"}, "2.5"),
        ({"q": "a?", "n": True}, {"label": "n"}, "true"),
        ({"q": "a?", "n": None}, {"label": "n"}, None),
    ],
)
def test_labels_are_found_and_spelled_out(
    record: dict[str, Any], fields: dict[str, str], found: str | None
) -> None:
    (row,) = read(record, fields={"question": "q", **fields})
    assert row.question.label == found


@pytest.mark.parametrize(
    ("record", "source"),
    [
        ({"q": "a?", "A": "one", "B": "two"}, ("A", "B")),
        ({"q": "a?", "choices": {"label": ["A", "B"], "text": ["one", "two"]}}, "choices"),
        ({"q": "a?", "options": ["one", "two"]}, "options"),
        ({"q": "a?", "options": '["one", "two"]'}, "options"),
        ({"q": "a?", "options": "['one', 'two']"}, "options"),
        ({"q": "a?", "options": "['one' 'two']"}, "options"),
        ({"q": "a?", "options": "['one'\n 'two']"}, "options"),
    ],
)
def test_choices_come_as_a_list_an_object_or_columns(
    record: dict[str, Any], source: str | tuple[str, ...]
) -> None:
    (row,) = read(record, fields={"question": "q", "choices": source})
    assert row.question.choices == ("one", "two")


@pytest.mark.parametrize(
    ("label", "fields", "found"),
    [
        (0, None, "one"),
        (1, None, "two"),
        ("1", None, "1"),
        ("b", None, "b"),
        ("0", {"label": "choices[label]"}, "one"),
        (1.0, {"label": "choices[label]"}, "two"),
        (None, {"label": "choices[label]"}, None),
    ],
)
def test_a_whole_number_beside_choices_is_a_place_from_0(
    label: Any, fields: FieldMap | None, found: str | None
) -> None:
    """As datasets name classes. What a text says is left to the reader of answers."""
    (row,) = read({"question": "a?", "choices": ["one", "two"], "label": label}, fields=fields)
    assert row.question.label == found


def test_a_whole_number_that_may_be_a_choice_or_a_place_is_refused() -> None:
    """Unless both are the same choice, or the text says which is meant."""
    with pytest.raises(Invalid, match="a choice's text and another's place"):
        read({"question": "a?", "choices": ["1", "3"], "label": 1})
    (same,) = read({"question": "a?", "choices": ["3", "1"], "label": 1})
    assert same.question.label == "1"
    (text,) = read({"question": "a?", "choices": ["1", "3"], "label": "1"})
    assert text.question.label == "1"


def test_a_label_that_is_a_key_of_the_choices_is_that_choice() -> None:
    """As ARC has them, whose keys may be numbers beside numbers."""
    choices = {"text": ["5", "3", "1", "2"], "label": ["1", "2", "3", "4"]}
    (row,) = read({"question": "a?", "choices": choices, "label": "1"})
    assert row.question.label == "5"


def test_an_empty_option_shifts_no_letters() -> None:
    fields: FieldMap = {"question": "q", "choices": ("a", "b", "c")}
    (row,) = read({"q": "?", "a": "x", "b": "y", "c": None}, fields=fields)
    assert row.question.choices == ("x", "y")
    with pytest.raises(Invalid, match="an empty option before another"):
        read({"q": "?", "a": "x", "b": None, "c": "z"}, fields=fields)


@pytest.mark.parametrize("label", [2, -1])
def test_a_place_that_no_choice_has_is_refused(label: int) -> None:
    """Places counted from 1 end so, and are not shifted in silence."""
    with pytest.raises(Invalid, match=r"line 1: `label` -?\d is no place among 2 choices"):
        read({"question": "a?", "choices": ["one", "two"], "label": label})


def test_a_column_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(Invalid) as caught:
        read(PAIR, fields={"question": "{premise} {hypotesis}"})
    assert caught.value.code == "unknown_column"
    assert "`hypotesis`, which `task.fields.question` names" in caught.value.message
    assert "`premise`, `hypothesis`, `gold`, `uid`" in caught.value.message


def test_a_file_without_questions_is_kept_until_a_task_says_what_is_what() -> None:
    summary = check_records(encode(PAIR, {**PAIR, "premise": "One."}))
    assert (summary.records, summary.is_unmapped) == (2, True)
    assert "`task.fields`" in summary.describe()[0]
    with pytest.raises(Invalid) as caught:
        read(PAIR)
    assert caught.value.code == "no_question"
    assert "fields: {question: premise, label: uid}" in caught.value.message


def test_a_job_s_other_files_may_have_our_own_names() -> None:
    (row,) = read({"question": "a?", "label": "b"}, fields=FIELDS)
    assert (row.question.text, row.question.label) == ("a?", "b")


def test_equal_lines_are_used_once_and_counted() -> None:
    rows = [{"question": "a?", "label": "b"}, {"question": " a? ", "label": "b"}]
    assert len(read(*rows)) == 1
    assert [row.repeats for row in read_rows(encode(*rows), with_repeats=True)] == [None, 1]
    assert check_records(encode(*rows)).describe() == [
        "1 records repeat a question and its label and are used once (first: 2 repeats 1)"
    ]


def test_a_question_with_two_labels_is_refused() -> None:
    with pytest.raises(Invalid, match="line 2: the same question as line 1") as caught:
        read({"question": "a?", "label": "b"}, {"question": "a?\n", "label": "c"})
    assert caught.value.code == "duplicate_question"


def test_what_was_done_is_said_once_with_counts() -> None:
    rows = [{"question": f"{n}?", "label": n, "source": "x"} for n in range(3)]
    assert check_records(encode(*rows)).describe() == [
        "3 labels are no texts and are spelled out (first: line 1: 0 is `0`)",
        "kept beside the questions as metadata: `source`",
    ]


def test_long_extra_columns_are_not_kept() -> None:
    (row,) = read({"question": "a?", "page": "x" * 5000})
    assert row.question.metadata == {}


@pytest.mark.parametrize(
    ("label", "found"),
    [(float("nan"), None), (Decimal("3.00"), "3"), (Decimal("2.50"), "2.50"), ([], None)],
)
def test_values_of_tables_are_spelled_out(label: Any, found: str | None) -> None:
    record = SourceRecord(1, {"question": "a?", "label": label}, "record")
    (row,) = RowBuilder().build(record)
    assert row.question.label == found


@pytest.mark.parametrize("label", [float("inf"), b"abc", Decimal("-Infinity")])
def test_values_that_are_no_answers_are_refused(label: Any) -> None:
    record = SourceRecord(1, {"question": "a?", "label": label}, "record")
    with pytest.raises(Invalid, match="record 1: `label` is"):
        list(RowBuilder().build(record))


def test_names_that_no_response_could_encode_are_told_with_marks() -> None:
    data = io.BytesIO(b'{"question": "a?", "\\ud800": "b"}')
    assert check_records(data).make_record("jsonl").columns == ("question", "?")
