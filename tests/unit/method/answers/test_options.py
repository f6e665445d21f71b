"""Options by text, letter and place; two of them, or none that is listed, are none."""

from __future__ import annotations

import io
import json
import re

import pytest

from qcrd.errors import Invalid
from qcrd.method.answer_reading.option_marks import MAX_OPTIONS, find_place, make_marks
from qcrd.method.answer_reading.options import find_same_labels, read_option
from qcrd.method.answers import parse_output
from qcrd.method.prompts import format_question
from qcrd.method.structured_answers import build_grammar
from qcrd.questions.label_checks import check_row
from qcrd.questions.rows import read_rows
from qcrd.records.rationales import Question
from qcrd.records.specs.task import AnswerKind, TaskSpec

CHOICES = ("bus depot", "bridge", "beach", "harbour", "tunnel")
KINDS, LETTERS, LANGUAGES = ("animal", "fruit", "tool"), ("A", "B", "C"), ("C", "C++", "C#")
GRADES = ("A*", "A", "*", "**", "***")


@pytest.mark.parametrize(
    "said",
    "(b)|b|B.|B)|Option B|choice (b)|B: bridge|B - bridge|(b) Bridge.|the bridge|**B. bridge**|"
    "Option 2|2. bridge|\\boxed{B}|\\text{bridge}|（B）|Ｂ|【B】|「bridge」|选项B|B：bridge|"
    "bridge (B)|B, because cars cross|(b), since (c) is wrong|bridge, not beach|B is correct|"
    "not (a) but (b)|B. Note that C is a trap".split("|"),
)
def test_a_choice_is_named(said: str) -> None:
    assert _say(AnswerKind.CHOICE, CHOICES, said) == "bridge"


@pytest.mark.parametrize(
    "said",
    "b or c|(b) or (c)|B, C|B and C|B/C|(b) beach|B: beach|A. beach|bridge (C)|bridge or beach|"
    "(h)|Z|airport|bridges|2|Option 9|3. bridge|none of the above|not B|B?|probably B|I think B|"
    "the bridge over the river|B—C|B. bridge. C. beach|either B or C|B\nC|(ii)".split("|"),
)
def test_what_names_no_choice_or_two_is_none(said: str) -> None:
    assert _say(AnswerKind.CHOICE, CHOICES, said) is None


@pytest.mark.parametrize(
    ("labels", "said", "label"),
    [
        *((KINDS, said, "animal") for said in ("An Animal.", "“animal”", "animal; it breathes")),
        *(
            (KINDS, said, "animal")
            for said in ("animal (not fruit)", "ani\u00admal", "ａｎｉｍａｌ")
        ),
        *((KINDS, said, None) for said in ("animal or fruit", "animal/fruit", "animal (fruit)")),
        *((KINDS, said, None) for said in ("animals", "no animal", "neither", "animal?", "B", "1")),
        *((KINDS, said, None) for said in ("not animal", "animal\nNo, wait, fruit", "anti-fruit")),
        *((LETTERS, said, "A") for said in ("(A) blue", "A because B is out", "\\textbf{A}", "a")),
        *((LETTERS, said, None) for said in ("A or B", "A. B", "A then B", "A B", "AB", "D", "A+")),
        *((LANGUAGES, said, "C") for said in ("C", "C.", "C, not C++", "**C**")),
        *((LANGUAGES, said, "C++") for said in ("c++.", "C ++", "C++ (not C)")),
        *((LANGUAGES, said, None) for said in ("C or C++", "C/C++", "C+")),
        *((GRADES, said, said) for said in GRADES),
        *((GRADES, said, None) for said in ("****", "A**")),
        (GRADES, "**A**", "A"),
        *((("spam", "not spam"), said, said) for said in ("spam", "not spam")),
        (("entailment", "not_entailment"), "not entailment", None),
        (("new york", "york"), "York, not New York", "york"),
        (("b) no", "a) yes"), "a) yes", "a) yes"),
        (("正面", "负面"), "正面（不是负面）", "正面"),
        (("正面", "负面"), "不是正面", None),
        (("正面", "负面"), "正面和负面", None),
        (("cafe\u0301", "bar"), "caf\u00e9", "cafe\u0301"),
    ],
)
def test_a_label_is_named(labels: tuple[str, ...], said: str, label: str | None) -> None:
    assert _say(AnswerKind.LABEL, labels, said) == label


def test_labels_that_meet_are_found() -> None:
    assert find_same_labels(("yes", "no", "Yes.")) == ("yes", "Yes.")
    assert find_same_labels(("e\u0301", "\u00e9")) == ("e\u0301", "\u00e9")
    assert find_same_labels(("the end", "end")) == ("the end", "end")
    assert find_same_labels((*GRADES, *LANGUAGES[1:])) is None


def test_numbers_among_choices_are_not_counted() -> None:
    assert read_option("Option 2", ("4", "8"), by_letter=True) is None
    assert read_option("8", ("4", "8"), by_letter=True) == "8"


@pytest.mark.parametrize(
    ("sentence", "choice"),
    [
        ("So we take the (b) bridge.", "bridge"),
        ("It is (b).", "bridge"),
        ("It has (a) muzzle.", None),
        ("It could be (b).", None),
        ("It is (b) or (c).", None),
        ("It is not (b).", None),
    ],
)
def test_a_last_sentence_without_a_mark(sentence: str, choice: str | None) -> None:
    parsed = parse_output(f"Cars. {sentence}", TaskSpec(answer=AnswerKind.CHOICE), _ask(CHOICES))
    assert (parsed.answer if parsed else None) == choice


def _ask(choices: tuple[str, ...]) -> Question:
    return Question(id="q", text="?", choices=choices)


def _say(kind: AnswerKind, options: tuple[str, ...], said: str) -> str | None:
    task = TaskSpec(answer=kind, labels=options if kind is AnswerKind.LABEL else ())
    parsed = parse_output(f"So it is.\n<Answer>: {said}", task, _ask(options))
    return parsed.answer if parsed else None


# --- more options than there are letters ----------------------------------------------------------

MANY = tuple(f"place {'x' * i}" for i in range(1, 31))


def test_every_option_is_shown_under_a_mark_of_its_own_and_read_back_by_it() -> None:
    task, asked = TaskSpec(answer=AnswerKind.CHOICE), Question(id="q", text="Where?", choices=MANY)
    lines = format_question(task, asked).splitlines()[2:]
    assert len(lines) == len(MANY)
    assert lines[25:28] == [f"(z) {MANY[25]}", f"(aa) {MANY[26]}", f"(ab) {MANY[27]}"]
    for line, option in zip(lines, MANY, strict=True):
        mark = line.split()[0]
        for said in (mark, mark.upper(), line, f"The answer is {mark}.", mark.strip("()")):
            assert _say(AnswerKind.CHOICE, MANY, said) == option, said
    assert parse_output(" it is there.\n<Answer>: (ad)", task, asked).answer == MANY[29]
    assert re.fullmatch(build_grammar(task, asked, 48), " it is there\n<Answer>: (ad)")


@pytest.mark.parametrize("said", ["(ae)", "(zz)", "(aa) place x", "(aa) or (ab)", "ae"])
def test_a_mark_of_no_option_or_of_another_one_is_none(said: str) -> None:
    assert _say(AnswerKind.CHOICE, MANY, said) is None


def test_of_few_options_two_letters_are_no_mark() -> None:
    assert _say(AnswerKind.CHOICE, CHOICES, "(aa)") is None


def test_marks_count_through_both_lengths() -> None:
    marks = make_marks(MAX_OPTIONS)
    assert [find_place(mark) for mark in marks] == list(range(MAX_OPTIONS))
    assert len(set(marks)) == MAX_OPTIONS


def test_more_options_than_marks_are_refused_by_their_line() -> None:
    body = json.dumps({"question": "Where?", "choices": [f"p{i}" for i in range(703)]})
    (row,) = read_rows(io.BytesIO(body.encode()))
    with pytest.raises(Invalid, match="703 options") as caught:
        check_row(row, TaskSpec(answer=AnswerKind.CHOICE), "training_file")
    assert caught.value.code == "too_many_choices"
    assert "line 1" in caught.value.message
