"""What a judge gets of a set: all of a small one, and of a large one a bounded part."""

from __future__ import annotations

from qcrd.method.judge.training_pairs import (
    MAX_HELD_OUT,
    MAX_TRAINED,
    TrainingPair,
    choose_questions,
    split_holdout,
)


def asked(count: int) -> list[str]:
    return [f"What is {number} + 1?" for number in range(count)]


def test_of_a_small_set_every_question_is_chosen() -> None:
    assert choose_questions(asked(MAX_TRAINED), seed=0) == list(range(MAX_TRAINED))


def test_of_a_large_set_a_sample_of_both_parts_is_chosen_in_order() -> None:
    questions = asked(5 * MAX_TRAINED)
    chosen = choose_questions(questions, seed=0)
    pairs = [TrainingPair(questions[place], ("so",), ()) for place in chosen]
    train, holdout = split_holdout(pairs)
    assert (len(train), len(holdout)) == (MAX_TRAINED, MAX_HELD_OUT)
    assert chosen == sorted(set(chosen)) == choose_questions(questions, seed=0)
    assert chosen != choose_questions(questions, seed=1)
    first_half = sum(place < len(questions) / 2 for place in chosen)
    assert 0.45 < first_half / len(chosen) < 0.55, "from all of it"


def test_one_part_may_be_smaller_than_its_bound() -> None:
    train, holdout = split_holdout([TrainingPair(q, ("so",), ()) for q in asked(30000)])
    only = [pair.question for pair in train[: MAX_TRAINED + 500]]
    assert len(choose_questions(only, seed=0)) == MAX_TRAINED
    few = [*only, *(pair.question for pair in holdout[:10])]
    assert len(choose_questions(few, seed=0)) == MAX_TRAINED + 10
