"""Answers by value, name and option; the vote's laws."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.method import arithmetic
from qcrd.method.answers import canonical, parse_output, question_id
from qcrd.method.prompts import build_teacher_prompt, format_question
from qcrd.method.self_consistency import majority_vote, split_rationales
from qcrd.records.rationales import Question, Rationale
from qcrd.records.specs.task import AnswerKind, FewShotExample, TaskSpec

NUMBER = TaskSpec(answer=AnswerKind.NUMBER)
KIND = TaskSpec(answer=AnswerKind.LABEL, labels=("animal", "musical instrument", "t-shirt"))
LETTERS = TaskSpec(answer=AnswerKind.LABEL, labels=("A", "B", "C"))
CHOICE = TaskSpec(answer=AnswerKind.CHOICE)
TEXT = TaskSpec()
Q = Question(id="q", text="?")
BRIDGES = Question(id="q", text="?", choices=("bus depot", "bridge", "beach", "bridge"))

DIGITS = Question(id="q", text="?", choices=("3", "2", "5"))


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("( 84.0 / 2.0 )", 42),
        ("10 - (3 + 6)", 1),
        ("( 7.0 * 30.0 ) + 1,200", 1410),
        ("1 / 3", Fraction(1, 3)),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("-(2 - 5)", 3),
        ("( 84. 0 / 2. 0 )", 42),
        ("3 \u00d7 4", 12),
        ("007", 7),
        ("-03 + 10.05", Fraction(705, 100)),
        ("1 / 0", None),
        ("2 ** 99", None),
        ("__import__('os')", None),
        ("True", None),
        ("(" * 150 + "1", None),
        ("1+" * 200 + "1", None),
        ("", None),
    ],
)
def test_arithmetic(expression: str, value: int | Fraction | None) -> None:
    assert arithmetic.evaluate_expression(expression) == value


@given(
    st.recursive(
        st.integers(0, 99).map(str),
        lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(
            lambda t: f"({' '.join(t)})"
        ),
        max_leaves=8,
    )
)
def test_arithmetic_agrees_with_python(expression: str) -> None:
    assert arithmetic.evaluate_expression(expression) == eval(expression)


@pytest.mark.parametrize(
    ("task", "question", "said", "expected"),
    [
        (NUMBER, Q, "(84 / 2).", "42"),
        (NUMBER, Q, "$1,200", "1200"),
        (NUMBER, Q, "5 + 3 = 8 apples", "8"),
        (NUMBER, Q, "3.50", "7/2"),
        (NUMBER, Q, "42 marbles.", "42"),
        (NUMBER, Q, "between 3 and 5", None),
        (NUMBER, Q, "x / 4", None),
        (NUMBER, Q, "007 apples", "7"),
        (NUMBER, Q, "3:30", None),
        (NUMBER, Q, "12:05 p.m.", None),
        (NUMBER, Q, "at 3 pm", None),
        (NUMBER, Q, "5 o'clock", None),
        (NUMBER, Q, "16:9", None),
        (NUMBER, Q, "2024-01-05", None),
        (NUMBER, Q, "5/11/1998", None),
        (NUMBER, Q, "total: 5", "5"),
        (KIND, Q, "An Animal.", "animal"),
        (KIND, Q, "B", None),
        (KIND, Q, "Musical instrument", "musical instrument"),
        (KIND, Q, "t - shirt", "t-shirt"),
        (KIND, Q, "animal or fruit", None),
        (LETTERS, Q, "(A) blue present.", "A"),
        (LETTERS, Q, "**(C) Ophelia**.", "C"),
        (LETTERS, Q, "B. ", "B"),
        (LETTERS, Q, "D", None),
        (CHOICE, BRIDGES, "(d) bridge.", "bridge"),
        (CHOICE, BRIDGES, "(a)", "bus depot"),
        (CHOICE, BRIDGES, "Beach", "beach"),
        (CHOICE, BRIDGES, "(e) tunnel", None),
        (CHOICE, BRIDGES, "B", "bridge"),
        (CHOICE, BRIDGES, "**c.**", "beach"),
        (CHOICE, BRIDGES, "Option A", "bus depot"),
        (CHOICE, BRIDGES, "E", None),
        (CHOICE, DIGITS, "(c)", "5"),
        (TEXT, Q, ' "NNYO". ', "nnyo"),
        (TEXT, Q, '"yajo". "yajo".', "yajo"),
    ],
)
def test_canonical(task: TaskSpec, question: Question, said: str, expected: str | None) -> None:
    assert canonical(said, task, question) == expected


def test_an_output_runs_on_into_a_question_of_its_own() -> None:
    text = "84 / 2 is 42. The answer is (84 / 2).\n\nQ: More?\nA: The answer is 7."
    parsed = parse_output(text, NUMBER, Q)
    assert parsed is not None
    assert (parsed.rationale, parsed.answer) == ("84 / 2 is 42.", "42")


def test_the_papers_format() -> None:
    parsed = parse_output(" A trout swims.\n<Answer>: animal\n", KIND, Q)
    assert parsed is not None
    assert (parsed.rationale, parsed.answer) == ("A trout swims.", "animal")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<Answer>: animal",
        "It swims.",
        "It swims.\n<Answer>: a living being",
        "<Explanation>:  \n<Answer>: animal",
        "The answer is animal.",
    ],
)
def test_outputs_without_rationale_or_answer_are_unparseable(text: str) -> None:
    assert parse_output(text, KIND, Q) is None


@given(st.text(max_size=300))
def test_no_output_crashes_the_parser(text: str) -> None:
    for task in (NUMBER, KIND, LETTERS, TEXT):
        parsed = parse_output(text, task, Q)
        assert parsed is None or (parsed.rationale.strip() and parsed.answer)


answers = st.lists(st.sampled_from(["a", "b", "c", None]), max_size=9)


@given(answers, st.randoms())
def test_the_vote_ignores_order(given_answers: list[str | None], rng: object) -> None:
    shuffled = list(given_answers)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert majority_vote(shuffled, "q") == majority_vote(given_answers, "q")


@given(answers, st.sampled_from(["majority", "gold", "majority_and_gold"]))
def test_no_rationale_is_lost_or_doubled(given_answers: list[str | None], rule: str) -> None:
    rationales = [
        Rationale(id=str(i), question_id="q", text="r", answer=answer)
        for i, answer in enumerate(given_answers)
        if answer is not None
    ]
    ballot = majority_vote(given_answers, "q")
    positives, negatives = split_rationales(rationales, ballot, rule, "a")  # type: ignore[arg-type]
    assert Counter(r.id for r in (*positives, *negatives)) == Counter(r.id for r in rationales)
    if rule == "majority" and rationales:
        assert {r.answer for r in positives} == {ballot.answer}
    assert ballot.unparseable == given_answers.count(None)


def test_margin_and_ties() -> None:
    """a a b: lead 1 of 3 votes; a b: lead 0, a tie that the digest breaks."""
    assert majority_vote(["a", "a", "b"]).margin == pytest.approx(1 / 3)
    tie = majority_vote(["a", "b", None])
    assert tie.tie
    assert tie.unparseable == 1
    winners = {majority_vote(["a", "b"], salt=str(i)).answer for i in range(20)}
    assert winners == {"a", "b"}


def test_the_prompt_ends_where_the_explanation_begins() -> None:
    task = TaskSpec(
        instruction="Name the kind.",
        examples=(FewShotExample(question="A pear?", explanation="It grows.", answer="fruit"),),
    )
    assert build_teacher_prompt(task, Question(id="q", text="A trout?")).text == (
        "Name the kind.\n\nQuestion: A pear?\n<Explanation>: It grows.\n<Answer>: fruit\n\n"
        "Question: A trout?\n<Explanation>:"
    )
    assert format_question(CHOICE, BRIDGES).endswith("(c) beach\n(d) bridge")


def test_question_ids_depend_on_text_and_choices() -> None:
    assert question_id("a", ("b",)) == question_id(" a ", ("b",))
    assert len({question_id("a"), question_id("a", ("b",)), question_id("ab")}) == 3


def test_the_parser_is_callable_with_what_qcrd_records_offers() -> None:
    """As evaluation scripts outside this repository import it."""
    from qcrd import records

    question = records.Question(id="q", text="2 + 2?")
    task = records.TaskSpec.model_validate({"answer": "number"})
    parsed = parse_output("It is two twos.\n<Answer>: 4", task, question)
    assert parsed is not None
    assert parsed.answer == "4"
