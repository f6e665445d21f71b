"""Ties on validation are broken by what a student says, without dropout and without luck; a
student that explains is asked what its rationales do for its labels."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from qcrd.method.evaluation.predict import predict
from qcrd.method.evaluation.rationale_use import measure_rationale_use
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target, joined_target
from qcrd.method.training.schedule import make_schedule
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.specs.training_spec import Hyperparameters
from qcrd.records.students.prompt_format import read_own_rationale
from services.trainer.data.training_dataset import LabeledQuestions
from services.trainer.results.measuring import compute_validation_score
from tests.students import REASONS, question
from tests.unit.method.student.test_generation import token_losses
from tests.unit.method.training.test_step import t5_with_dropout
from tests.unit.method.training.test_trainer import student

TASK = TaskSpec(answer=AnswerKind.LABEL, labels=tuple(label for label, _ in REASONS.values()))
HYPER = Hyperparameters(max_label_tokens=4, max_rationale_tokens=8)
SPEC = MethodSpec(task=TASK, hyperparameters=HYPER)
QUESTIONS = tuple(Question(id=thing, text=question(thing)) for thing in REASONS)
LABELS = tuple(label for label, _ in REASONS.values())
HELD_OUT = LabeledQuestions(QUESTIONS, LABELS, LABELS)


def teach(learner: Student, pairs: Sequence[tuple[str, Target]], steps: int = 100) -> Student:
    """By heart, without dropout."""
    optimizer = torch.optim.AdamW(learner.model.parameters(), lr=5e-3)
    learner.model.eval()
    for _ in range(steps):
        total, count = learner.cross_entropy(
            [prompt for prompt, _ in pairs], range(len(pairs)), [target for _, target in pairs]
        )
        optimizer.zero_grad()
        (total.sum() / count.sum()).backward()
        optimizer.step()
    return learner


@pytest.mark.parametrize("method", ["single_task", "dss"])
def test_two_readings_of_the_same_weights_are_equal(method: str) -> None:
    """With dropout on in the model, whatever the state of the generator, which is left alone."""
    schedule = make_schedule(method, SPEC, n_examples=4, seed=0)
    read = t5_with_dropout()
    read.model.train()
    scores = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        scores.append(compute_validation_score(read, HELD_OUT, schedule))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert scores[0] == scores[1]
    assert read.model.training
    assert all(parameter.grad is None for parameter in read.model.parameters())


def test_the_tie_break_is_of_the_label_behind_the_student_s_own_rationale() -> None:
    schedule = make_schedule("single_task", SPEC, n_examples=4, seed=0)
    read = student(max_target_tokens=8, max_answer_tokens=4)
    losses = []
    for item, label in zip(QUESTIONS, LABELS, strict=True):
        prompt = PREDICT_PREFIX + item.text
        (said,) = read.generate([prompt], max_new_tokens=12)
        ids = read.tokenize_target(joined_target(read_own_rationale(said), label))
        own = token_losses(read, prompt, ids)[-4:]  # answer : <label> </s>
        losses.append(sum(own) / 4)
    _, minus_ce = compute_validation_score(read, HELD_OUT, schedule)
    assert minus_ce == pytest.approx(-sum(losses) / len(losses), rel=1e-3)


@pytest.mark.parametrize(
    ("output", "rationale"),
    [
        ("it swims answer: animal", "it swims"),
        ("the answer: is it answer: animal", "the answer: is it"),
        ("answer: animal", ""),
        ("it swims and swims", "it swims and swims"),
    ],
)
def test_the_rationale_of_an_output_without_a_label_is_all_of_it(
    output: str, rationale: str
) -> None:
    assert read_own_rationale(output) == rationale


def test_a_rationale_at_its_limit_leaves_room_for_the_whole_label() -> None:
    """8 tokens of rationale, then `answer : animal </s>`: 12, more than either limit."""
    learner = student(max_target_tokens=9, max_answer_tokens=4)
    text = "it swims in water so it is a"
    pairs = [(PREDICT_PREFIX + QUESTIONS[0].text, joined_target(text, "animal"))]
    teach(learner, pairs, steps=40)
    first = LabeledQuestions(QUESTIONS[:1], LABELS[:1], LABELS[:1])
    schedule = make_schedule("single_task", SPEC, n_examples=1, seed=0)
    accuracy, minus_ce = compute_validation_score(learner, first, schedule)
    assert accuracy == 1.0
    assert minus_ce > -0.1


# --- the label given its own rationale ------------------------------------------------------------


def test_what_a_student_makes_of_its_own_rationales() -> None:
    """It labels all four rightly. Two of its rationales name an answer, one of them another one;
    what it says with its rationale below the question is compared with its own two calls."""
    said = {
        "trout": "it swims \n answer : animal",
        "apple": "it grows \n answer : tool",
        "hammer": "it hits nails",
        "violin": "it plays music",
    }
    pairs = [(PREDICT_PREFIX + question(t), Target(answer=REASONS[t][0])) for t in REASONS]
    pairs += [(EXPLAIN_PREFIX + question(t), Target(said[t])) for t in REASONS]
    learner = teach(student(), pairs)
    predictions = predict(learner, QUESTIONS, LABELS, TASK, max_new_tokens=4)
    assert all(prediction.right for prediction in predictions)
    work = learner.flops, learner.tokens
    found = measure_rationale_use(
        learner, QUESTIONS, predictions, TASK, max_rationale_tokens=16, max_label_tokens=4
    )
    assert (learner.flops, learner.tokens) == work
    assert (found.questions, found.given, found.right_without) == (4, 4, 4)
    assert (found.named, found.named_same, found.named_right) == (2, 1, 1)
    rationales = learner.generate([EXPLAIN_PREFIX + q.text for q in QUESTIONS], max_new_tokens=16)
    prompts = [
        f"{PREDICT_PREFIX}{q.text}\n{rationale}"
        for q, rationale in zip(QUESTIONS, rationales, strict=True)
    ]
    labels = learner.generate(prompts, max_new_tokens=4)
    right = sum(label == gold for label, gold in zip(labels, LABELS, strict=True))
    assert found.given_right == found.given_same == right


def test_a_question_that_is_too_long_with_its_rationale_is_not_asked() -> None:
    asked = student(max_question_tokens=12)
    predictions = predict(asked, QUESTIONS, LABELS, TASK, max_new_tokens=4)
    asked.generate = lambda prompts, **_: ["it swims in water"] * len(prompts)  # type: ignore[method-assign]
    found = measure_rationale_use(
        asked, QUESTIONS, predictions, TASK, max_rationale_tokens=8, max_label_tokens=4
    )
    assert (found.questions, found.given, found.given_right, found.right_without) == (4, 0, 0, 0)
