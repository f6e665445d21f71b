"""Where outputs that run on are cut, and where they only have parts."""

from __future__ import annotations

import pytest

from qcrd.method.run_on import Reading, cut_at_mark, cut_at_stop, find_next_question_mark


def find(outputs: list[str], question: str = "?", right: str | None = None) -> str | None:
    """An answer is what follows the last `answer is`; `right` is every question's label."""

    def read(place: int, text: str) -> Reading:
        _, found, answer = text.lower().rpartition("answer is ")
        if right is None:
            return Reading(bool(found))
        return Reading(bool(found), answer.partition(".")[0] == right)

    return find_next_question_mark([(question, output) for output in outputs], read)


@pytest.mark.parametrize(
    ("heading", "mark"),
    [
        ("Premise", "Premise"),
        ("Question 7", "Question"),
        ("**Passage**", "Passage"),
        ("### Sentence 1", "Sentence"),
        ("前提", "前提"),
    ],
)
def test_a_heading_that_repeats_behind_answers_is_found_and_cut(heading: str, mark: str) -> None:
    outputs = [f"Because {n}. The answer is {n}.\n\n{heading}: more {n}." for n in range(10)]
    assert find(outputs, f"{mark}: one.") == mark
    assert find(outputs) is None, "without labels the heading has to be a question's own"
    assert [cut_at_mark(each, mark) for each in outputs] == [
        f"Because {n}. The answer is {n}." for n in range(10)
    ]


@pytest.mark.parametrize(
    "output",
    [
        "First.\n\nStep 2: then {n}.\n\nThe answer is {n}.",
        "Given {n}.\n\nCase A: one.\n\nCase B: two.\n\nThe answer is {n}.",
        "The answer is {n}.\n\nExplanation: because {n}.",
        "The answer is {n}.\n\nReason: because {n}.",
        "The answer is {n}. Premise: in the same line.",
        "The answer is {n}.",
    ],
)
def test_an_output_s_own_parts_are_no_next_question(output: str) -> None:
    assert find([output.replace("{n}", str(n)) for n in range(10)]) is None


@pytest.mark.parametrize(
    ("before", "behind", "mark"),
    [("5", "7", "Critique"), ("7", "5", None), ("5", "5", None), ("7", "7", None)],
)
def test_labels_tell_a_next_question_from_a_second_attempt(
    before: str, behind: str, mark: str | None
) -> None:
    """What stands before a made-up question is right more often than what it makes of it; a better
    answer behind a heading is the output's own."""
    outputs = [f"So the answer is {before}.\n\nCritique: the answer is {behind}."] * 10
    assert find(outputs, right="5") == mark


def test_a_next_question_may_begin_on_the_next_line() -> None:
    outputs = [f"So the answer is 5.\nPremise: {n}.\nThe answer is 7." for n in range(10)]
    assert find(outputs, right="5") == "Premise"
    assert cut_at_mark(outputs[0], "Premise") == "So the answer is 5."


def test_what_does_not_repeat_is_left() -> None:
    outputs = [f"The answer is {n}." for n in range(100)]
    outputs[3] += "\n\nPremise: one."
    assert find(outputs) is None
    assert find([]) is None
    assert cut_at_mark(outputs[5], "Premise") == outputs[5]


def test_the_first_of_several_stop_sequences_ends_a_text() -> None:
    assert cut_at_stop("a ### b END c", ("END", "###")) == "a "
    assert cut_at_stop("a", ("END",)) == "a"
