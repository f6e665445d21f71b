"""A questions file: what is read out of it, and what each wrong line is told."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.errors import Invalid
from qcrd.method.answers import repeat_id
from qcrd.questions.rows import QuestionRow, read_rows
from qcrd.runtime.data_files.records import MAX_RECORD_BYTES

GOOD = {"question": "What is 1 + 1?", "label": "2"}


def read(*lines: str | bytes | dict[str, Any]) -> list[QuestionRow]:
    encoded = [
        line
        if isinstance(line, bytes)
        else (line if isinstance(line, str) else json.dumps(line)).encode()
        for line in lines
    ]
    return list(read_rows(io.BytesIO(b"\n".join(encoded))))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"question": texts},
            optional={
                "label": texts | st.none(),
                "choices": st.lists(texts, min_size=2, max_size=5),
                "teacher_outputs": st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
                "id": st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
            },
        ),
        min_size=1,
        max_size=8,
        unique_by=lambda row: repeat_id(row["question"]),
    )
)
def test_every_row_comes_back_as_it_was(rows: list[dict[str, Any]]) -> None:
    """JSON escapes line ends, so no text can break the file's lines."""
    found = read(*rows)
    assert [row.line_number for row in found] == list(range(1, len(rows) + 1))
    for row, source in zip(found, rows, strict=True):
        assert row.question.text == source["question"]
        assert row.question.label == source.get("label")
        assert row.question.choices == tuple(source.get("choices", ()))
        assert row.outputs == tuple(source.get("teacher_outputs", ()))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    assert verdict(data) == "read" or verdict(data).startswith(
        ("line ", "record ", "the file is empty")
    )


def verdict(data: bytes) -> str:
    try:
        return "read" if list(read_rows(io.BytesIO(data))) else "nothing"
    except Invalid as error:
        return error.message


@pytest.mark.parametrize(
    ("line", "code", "told"),
    [
        ('{"question": "a"', "broken_json", "broken JSON at character"),
        ("[" * 100_000, "broken_json", "nested too deep"),
        ('{"question": ' + "[" * 100_000, "broken_json", "nested too deep"),
        ('{"question": "a", "label": ' + "9" * 5000 + "}", "broken_json", "broken JSON"),
        ("[1]", "invalid_line", "a JSON object is needed"),
        ("{}", "invalid_line", "`question` is missing"),
        ({"question": "  "}, "invalid_line", "`question` is empty"),
        ({"question": 3}, "invalid_line", "`question` must be a string, not a number"),
        ({"question": "a", "label": {"b": 1}}, "invalid_line", "`label` is an object, no answer"),
        ({"question": "a", "label": " "}, "invalid_line", "`label` is empty"),
        ({"lable": "b"}, "invalid_line", "`question` is missing"),
        ({"question": "a", "choices": ["b"]}, "invalid_line", "`choices` has one option"),
        ({"question": "a", "choices": ["b", 1]}, "invalid_line", "`choices[1]` must be a string"),
        ({"question": "a", "outputs": "b"}, "invalid_line", "`outputs` must be a list"),
        (
            {"question": "a", "outputs": ["b"], "teacher_output": "c"},
            "invalid_line",
            "both `teacher_output` and `outputs`",
        ),
        (b'{"question": "\xff"}', "not_utf8", "not UTF-8 (byte 15"),
        ('{"question": "\\ud800"}', "not_utf8", "surrogate"),
        (b'"' + b"a" * MAX_RECORD_BYTES + b'"', "invalid_line", "longer than"),
    ],
)
def test_a_wrong_line_is_named_with_the_fix(
    line: str | bytes | dict[str, Any], code: str, told: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read(GOOD, line)
    assert caught.value.message.startswith("line 2: ")
    assert told in caught.value.message
    assert caught.value.code == code


@pytest.mark.parametrize("data", [b"", b"\n\n  \n"])
def test_an_empty_file_is_refused(data: bytes) -> None:
    with pytest.raises(Invalid, match="the file is empty"):
        list(read_rows(io.BytesIO(data)))


def test_a_duplicate_names_both_lines() -> None:
    with pytest.raises(Invalid, match=r"line 4: the same question as line 1") as caught:
        read(GOOD, "", {"question": "other"}, {**GOOD, "label": "3"})
    assert caught.value.code == "duplicate_question"


def test_the_same_words_with_other_choices_are_another_question() -> None:
    where = {"question": "Where?"}
    assert len(read({**where, "choices": ["a", "b"]}, {**where, "choices": ["a", "c"]})) == 2


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert read(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())[0].question.text == GOOD["question"]


@pytest.mark.parametrize("dress", [" Où est la truite? ", "Ou\u0300 est la truite?\n"])
def test_a_question_in_another_dress_is_the_same_question(dress: str) -> None:
    with pytest.raises(Invalid) as caught:
        read({"question": "Où est la truite?"}, GOOD, {"question": dress, "label": "tool"})
    assert caught.value.message.startswith("line 3: the same question as line 1")
    assert caught.value.code == "duplicate_question"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is `a`?", "What is `A`?"),
        ("Solve x² = 4.", "Solve x2 = 4."),
        ("if x:\n  y()\nz()", "if x:\n  y()\n  z()"),
        ("Is ½ more?", "Is 1/2 more?"),
    ],
)
def test_case_and_signs_tell_questions_apart(one: str, other: str) -> None:
    rows = read({"question": one, "label": "yes"}, {"question": other, "label": "no"})
    assert [row.question.text for row in rows] == [one, other]
    assert len({row.question.id for row in rows}) == 2


def test_options_tell_questions_apart() -> None:
    first = {"question": "Which?", "choices": ["a", "b"]}
    second = {"question": "which?", "choices": ["a", "c"]}
    assert len(read(first, second)) == 2


def test_files_put_one_behind_the_other_are_read_without_their_marks() -> None:
    marked = b"\xef\xbb\xbf" + json.dumps(GOOD).encode()
    rows = read(marked, b"\xef\xbb\xbf" + b'{"question": "What is 2 + 2?"}')
    assert [row.question.text for row in rows] == ["What is 1 + 1?", "What is 2 + 2?"]
