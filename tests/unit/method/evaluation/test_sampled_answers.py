"""One answer of several outputs, and what a judge of them is trained on."""

from __future__ import annotations

from qcrd.method.evaluation.predict import accuracy
from qcrd.method.evaluation.sampled_answers import (
    choose_best,
    choose_by_vote,
    choose_by_weight,
    count_tokens,
    make_answer_pairs,
)
from qcrd.records.rationales import Prediction


def outputs(*answers: str | None, question: str = "q", gold: str = "a") -> list[Prediction]:
    return [
        Prediction(
            question_id=question,
            text=f"because {i} answer: {answer}",
            answer=answer,
            gold=gold,
            right=answer == gold,
            tokens=10 + i,
        )
        for i, answer in enumerate(answers)
    ]


def test_the_vote_is_the_first_output_of_the_commonest_answer() -> None:
    chosen = choose_by_vote([outputs("b", "a", "a", None), outputs(None, None)])
    assert [one.text for one in chosen] == ["because 1 answer: a", "because 0 answer: None"]


def test_the_best_has_the_highest_score_and_the_first_of_equals_wins() -> None:
    samples = [outputs("b", "a", "a"), outputs("a", "b")]
    chosen = choose_best(samples, [[0.1, 0.7, 0.9], [0.5, 0.5]])
    assert [one.text for one in chosen] == ["because 2 answer: a", "because 0 answer: a"]


def test_weights_add_up_by_answer_and_none_of_them_is_a_last_resort() -> None:
    samples = [outputs("b", "a", "a"), outputs(None, "a"), outputs(None, None)]
    chosen = choose_by_weight(samples, [[0.9, 0.5, 0.5], [0.9, 0.1], [0.4, 0.4]])
    assert [one.answer for one in chosen] == ["a", "a", None]


def test_a_vote_costs_the_tokens_of_all_its_outputs() -> None:
    samples = [outputs("a", "a"), outputs("a", "a", "b")]
    row = count_tokens(accuracy(choose_by_vote(samples)), samples)
    assert row.answer_tokens == (10 + 11 + 10 + 11 + 12) / 2


def test_the_judge_learns_from_questions_with_both_and_from_no_more_right_than_wrong() -> None:
    samples = [
        outputs("a", "a", "b", question="both"),
        outputs("a", "a", question="right"),
        outputs("b", "b", question="wrong"),
    ]
    (pair,) = make_answer_pairs({"both": "what is it ?"}, samples, seed=0)
    assert pair.question == "what is it ?"
    assert len(pair.positives) == len(pair.negatives) == 1
    assert pair.positives[0] in {"because 0 answer: a", "because 1 answer: a"}
    assert pair.negatives == ("because 2 answer: b",)
