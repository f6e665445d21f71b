"""What a study's rows change in a training: the choice of rationales, own samples, and negatives of
other questions."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from qcrd.method.training.checkpoint import capture_state, restore_state
from qcrd.method.training.negatives.controls import take_from_other_questions
from qcrd.method.training.objectives import get_objective
from qcrd.method.training.progress import IterationFinished, StepFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.selection import choose_positives, keep_chosen, measure_difficulty
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale, RationaleSource
from qcrd.records.specs.spec import MethodSpec
from tests.unit.method.student.test_generation import token_losses
from tests.unit.method.training.test_trainer import lessons, spec, student, validate


def make_spec(**sections: Any) -> MethodSpec:
    given = MethodSpec.model_validate(sections)
    update = {name: getattr(given, name) for name in sections}
    return spec(iterations=3, iteration_steps=2).model_copy(update=update)


def make_trainer(given: MethodSpec, method: str, seed: int = 0) -> Trainer:
    examples = lessons()
    schedule = make_schedule(method, given, n_examples=len(examples), seed=0)
    return Trainer(student(seed=seed), examples, schedule, validate)


def rationale(text: str, **more: Any) -> Rationale:
    return Rationale(id=text, question_id="q", text=text, **more)


def assert_resumes_anywhere(given: MethodSpec, method: str) -> Trainer:
    whole = make_trainer(given, method)
    steps = [r for r in whole.run() if isinstance(r, StepFinished)]
    for stop in range(1, len(steps)):
        first = make_trainer(given, method)
        records = first.run()
        done = 0
        while done < stop:
            done += isinstance(next(records), StepFinished)
        second = make_trainer(given, method, seed=5)
        restore_state(second, capture_state(first))
        list(second.run())
        pairs = zip(
            whole.student.model.parameters(), second.student.model.parameters(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs), stop
        assert whole.flops == second.flops
        assert whole.in_force_shares == second.in_force_shares
    return whole


# --- a choice of rationales ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "kept"), [(0.5, ["a b", "c d"]), (0.1, ["a b"]), (1, ["a b", "c d", "e", "a  b"])]
)
def test_the_least_difficult_are_kept_and_repetitions_last(keep: float, kept: list[str]) -> None:
    """Two of the four have the same words: the second of them comes after one that is harder."""
    difficulty = {"a b": 0.1, "a  b": 0.2, "c d": 0.3, "e": 0.4}
    texts = ["e", "a  b", "c d", "a b", "e", "a b"]  # what two outputs said is one
    example = replace(lessons()[0], positives=tuple(rationale(text) for text in texts))
    chosen = choose_positives([example], difficulty, keep)
    assert chosen == kept
    (left,) = keep_chosen([example], chosen)
    assert [r.text for r in left.positives] == kept


@pytest.mark.parametrize("answers", ["label", "reasoned"])
def test_difficulty_is_the_label_s_cross_entropy_behind_the_rationale(answers: Any) -> None:
    made, item = student("llama", max_answer_tokens=4), lessons()[0]
    found = measure_difficulty(made, [item], get_objective("dss+positives", answers))
    assert set(found) == {r.id for r in item.positives}
    made.model.eval()
    for each in item.positives:
        if answers == "label":
            ids = [*made.tokenizer(f" {item.label}", add_special_tokens=False).input_ids]
            prompt, skip = f"predict: {item.text}\n{each.text}", 0
        else:
            prefix = made.tokenizer(f" {each.text} answer:", add_special_tokens=False).input_ids
            ids = [*prefix, *made.tokenizer(f" {item.label}", add_special_tokens=False).input_ids]
            prompt, skip = f"explain: {item.text}", len(prefix)
        ce = token_losses(made, prompt, [*ids, *made.end_token_ids])[skip:]
        assert found[each.id] == pytest.approx(statistics.fmean(ce), rel=1e-3)


def test_the_choice_is_made_once_is_paid_and_is_resumed_with() -> None:
    given = make_spec(positives={"select": "difficulty", "keep": 0.5})
    made = assert_resumes_anywhere(given, "dss+positives")
    assert made.chosen is not None
    assert all(len(example.positives) == 1 for example in made.examples)
    # Of a training that learns from the same one rationale, all but the pass.
    examples = list(made.examples)
    schedule = make_schedule("dss+positives", make_spec(), n_examples=8, seed=0)
    plain = Trainer(student(), examples, schedule, validate)
    list(plain.run())
    assert made.flops > plain.flops
    pairs = zip(plain.student.model.parameters(), made.student.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert plain.chosen is None


def test_a_method_without_rationales_chooses_none() -> None:
    made = make_trainer(make_spec(positives={"select": "difficulty"}), "finetune")
    list(made.run())
    assert made.chosen is None


# --- own samples --------------------------------------------------------------------------------


def test_its_own_right_samples_are_all_that_is_taught() -> None:
    given = make_spec(
        positives={"source": "student"},
        negatives={"lag": 1, "filter": "wrong_only", "keep_right": True},
        loss={"beta": 0, "scheme": "mean"},
    )
    made = make_trainer(given, "dss+positives+negatives")
    example = made.examples[0]
    right = rationale("it swims . So the answer is animal.", answer="animal")
    wrong = rationale("it grows . So the answer is fruit.", answer="fruit")
    (attached,) = made.negative_supply.attach([example], {example.id: (right, wrong)})
    assert (attached.positives, attached.negatives) == ((right,), (wrong,))
    (nothing,) = made.negative_supply.attach([example], {})
    assert nothing.positives == ()


def test_a_right_sample_that_the_teacher_gave_too_is_an_own_one() -> None:
    """Of a student that learns from its teacher it is a repetition, which teaches nothing."""
    negatives = {"lag": 1, "filter": "wrong_only", "keep_right": True}
    task = {"answer": "label", "labels": ["animal", "fruit", "tool", "instrument"]}
    for source, kept in (("student", 1), ("teacher", 0)):
        given = make_spec(positives={"source": source}, negatives=negatives, task=task)
        made = make_trainer(given, "dss+positives+negatives")
        said = "it swims . So the answer is animal."
        example = replace(made.examples[0], positives=(rationale(said, answer="animal"),))
        sample = Rationale(id="s", question_id="0", text=said, source=RationaleSource.STUDENT)
        found = made.negative_supply._filter.apply([example], {example.id: (sample,)})
        assert len(found.kept[example.id]) == kept


# --- negatives that are about something else ------------------------------------------------------


def test_the_nearest_in_cross_entropy_of_other_questions_takes_the_place() -> None:
    examples = lessons()[:3]
    samples = {
        "0": (rationale("own"),),
        "1": (rationale("near"), rationale("far")),
        "2": (),
    }
    ce = {"own": 2.0, "near": 2.4, "far": 5.0}
    asked: list[tuple[str, str]] = []

    def score(pairs: Sequence[tuple[TrainingExample, Rationale]]) -> list[float]:
        asked.extend((example.id, r.text) for example, r in pairs)
        return [ce[r.text] for _, r in pairs]

    found = take_from_other_questions(examples, samples, score, "salt")
    assert {name: [r.text for r in own] for name, own in found.items()} == {
        "0": ["near"],
        "1": ["own", "own"],
        "2": [],
    }
    assert {question for question, _ in asked} == {"0", "1"}
    (taken,) = found["0"]
    # A judge's score, and a reference's, belong to a question and its rationale.
    assert (taken.question_id, taken.answer) == ("0", None)
    assert taken.id not in {r.id for own in samples.values() for r in own}
    assert take_from_other_questions(examples, samples, score, "salt") == found


def test_alone_a_question_has_none() -> None:
    assert take_from_other_questions(
        lessons()[:1], {"0": (rationale("own"),)}, lambda pairs: [0.0] * len(pairs), ""
    ) == {"0": ()}


def test_a_training_with_negatives_of_other_questions_is_resumed_and_costs_more() -> None:
    def make(control: str) -> MethodSpec:
        return make_spec(negatives={"lag": 1, "control": control}, loss={"delta": 20.0})

    method = "dss+positives+negatives"
    controlled = assert_resumes_anywhere(make("other_question"), method)
    plain = make_trainer(make("none"), method)
    ends = [r for r in plain.run() if isinstance(r, IterationFinished)]
    assert controlled.flops > plain.flops
    assert len(plain.in_force_shares) == len(ends) == 3
    samples = plain.last_samples
    assert {r.text for own in controlled.last_samples.values() for r in own} != {
        r.text for own in samples.values() for r in own
    }


def test_negatives_that_weigh_nothing_are_paid_and_change_nothing() -> None:
    without = make_trainer(make_spec(), "dss+positives")
    list(without.run())
    paid = make_trainer(
        make_spec(negatives={"lag": 1}, loss={"beta": 0}), "dss+positives+negatives"
    )
    list(paid.run())
    assert paid.flops > without.flops
    pairs = zip(without.student.model.parameters(), paid.student.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs)
