"""What is measured of a finished student besides its greedy answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest

from qcrd.method.judge.training_pairs import QuestionRationale, TrainingPair
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import reasoned_target
from qcrd.method.training.schedule import TrainingSchedule, make_schedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.job import JudgeHistograms
from qcrd.records.rationales import Question, TestItem
from qcrd.records.specs.evaluation_spec import EvaluationSpec, FallbackSpec
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.task import AnswerKind, TaskSpec
from qcrd.records.specs.training_spec import Hyperparameters, StudentSpec
from qcrd.records.students.prompt_format import split_joined_output
from services.trainer.data.training_dataset import LabeledQuestions, TrainingDataset
from services.trainer.results.answer_judging import AnswerJudgeTraining
from services.trainer.results.answering import StudentAnswers, measure_answers
from services.trainer.results.measuring import Asker
from tests.students import REASONS, question
from tests.unit.method.training.test_trainer import student as make_student
from tests.unit.trainer.test_report import MANIFEST
from tests.unit.trainer.test_validation_score import teach

LABELS = tuple(label for label, _ in REASONS.values())
TASK = TaskSpec(answer=AnswerKind.LABEL, labels=LABELS)
QUESTIONS = tuple(Question(id=thing, text=question(thing)) for thing in REASONS)


def make_run(**evaluation: object) -> TrainingSchedule:
    spec = MethodSpec(
        task=TASK,
        student=StudentSpec(answers="reasoned"),
        hyperparameters=Hyperparameters(max_label_tokens=4, max_rationale_tokens=8),
        evaluation=EvaluationSpec.model_validate(evaluation),
    )
    return make_schedule("dss+positives", spec, n_examples=4, seed=0)


@cache
def taught() -> Student:
    """It answers from its rationale: each reason is followed by its label under any question."""
    learner = make_student(max_target_tokens=8, max_answer_tokens=4)
    pairs = [
        (EXPLAIN_PREFIX + question(thing), reasoned_target(reason, label))
        for thing, (label, reason) in REASONS.items()
    ]
    # The label behind another one's reason is that of the reason.
    pairs += [
        (EXPLAIN_PREFIX + question(thing), reasoned_target(reason, label))
        for thing in REASONS
        for label, reason in REASONS.values()
    ]
    pairs += pairs[: len(REASONS)] * 6
    return teach(learner, pairs, steps=150)


def make_dataset(golds: Sequence[str] = LABELS) -> TrainingDataset:
    held_out = LabeledQuestions(QUESTIONS, tuple(golds), LABELS, LABELS)
    examples = tuple(
        TrainingExample(q.id, q.text, label, gold)
        for q, label, gold in zip(QUESTIONS, LABELS, golds, strict=True)
    )
    test = tuple(TestItem(question=q, gold=g) for q, g in zip(QUESTIONS, golds, strict=True))
    return TrainingDataset(MANIFEST, examples, QUESTIONS, held_out, test)


def measure(
    with_judge: AnswerJudgeTraining | None = None,
    dataset: TrainingDataset | None = None,
    **evaluation: object,
) -> StudentAnswers:
    asker = Asker(taught(), make_run(**evaluation))
    return measure_answers(asker, dataset or make_dataset(), with_judge)


def test_the_answer_goes_by_the_rationale_that_stands_before_it() -> None:
    flops = taught().flops
    found = measure()
    assert taught().flops == flops  # no part of the method's compute
    assert found.report is not None
    assert found.report.swap is not None
    assert (found.report.swap.n, found.report.swap.right_with_own) == (4, 4)
    assert found.report.swap.right_with_other == 0
    assert found.report.samples == 0
    assert found.vote_confidence is None


def test_what_takes_long_is_told_before_it_is_done() -> None:
    told: list[str] = []
    measure_answers(Asker(taught(), make_run(samples=4), tell=told.append), make_dataset())
    assert told == [
        "greedy answers to 4 validation and 4 test questions",
        "4 answers behind another question's rationale, and behind none",
        "4 outputs for each of 4 validation questions",
        "4 outputs for each of 4 test questions",
    ]


def test_a_greedy_answer_has_a_confidence_and_a_count() -> None:
    found = measure()
    assert found.confidence is not None
    assert found.confidence.mark == taught().make_mark()
    assert all(one.confidence and one.confidence > 0.5 for one in found.test)
    assert all(one.tokens and one.tokens > 4 for one in found.test)
    assert found.doubt is not None
    assert (found.doubt.n, found.doubt.calibrated_on) == (4, 4)


def test_of_a_baseline_no_more_is_measured() -> None:
    asker = Asker(taught(), make_run(samples=4, fallback=FallbackSpec(agreement=0.5)))
    found = measure_answers(asker, make_dataset(), is_published=False)
    assert (found.report, found.cascade, found.vote_confidence) == (None, None, None)
    assert found.confidence is not None


def test_a_vote_is_a_row_with_its_cost_and_its_own_confidence() -> None:
    found = measure(samples=4, temperature=1.0)
    report = found.report
    assert report is not None
    assert (report.samples, report.temperature) == (4, 1.0)
    row = report.rows["vote"]
    assert row.n == 4
    assert row.answer_tokens is not None
    assert row.answer_tokens > 4 * 4  # of four outputs
    (compared,) = report.comparisons
    assert (compared.method, compared.baseline) == ("vote", "greedy")
    assert report.judged is None
    made = found.vote_confidence
    assert made is not None
    assert (made.samples, made.temperature, set(made.weights)) == (4, 1.0, {"share", "answer"})


def test_few_validation_questions_hand_everything_on_and_the_model_is_told() -> None:
    found = measure(fallback=FallbackSpec(agreement=0.9, teacher="big"))
    assert found.cascade is not None
    assert found.cascade.threshold is None
    assert found.cascade.reason is not None
    assert found.confidence is not None
    assert found.confidence.fallback is not None
    assert found.confidence.fallback.teacher == "big"
    assert found.confidence.fallback.threshold > 1  # no confidence reaches it


# --- the judge of answers -------------------------------------------------------------------------


class KnowingJudge:
    """Scores an output by whether its answer is the one that is asked for here."""

    flops = 0.0
    histograms: JudgeHistograms | None = None
    oldest_version = 0

    def __init__(self, golds: Sequence[str]) -> None:
        self.golds = {q.text: gold for q, gold in zip(QUESTIONS, golds, strict=True)}
        self.trained_on: list[TrainingPair] = []

    def pretrain(self, training_pairs: Sequence[TrainingPair]) -> dict[str, float]:
        self.trained_on = list(training_pairs)
        return {"auc": 1.0}

    def update(
        self, iteration: int, training_pairs: Sequence[TrainingPair], *, weight: float
    ) -> dict[str, float]:
        raise AssertionError("it is trained once")

    def score(self, pairs: Sequence[QuestionRationale]) -> list[float]:
        return [
            0.9 if split_joined_output(output)[1] == self.golds[asked] else 0.1
            for asked, output in pairs
        ]


def test_too_few_mixed_questions_train_no_judge() -> None:
    judge = KnowingJudge(LABELS)
    found = measure(AnswerJudgeTraining("judge-1", lambda: judge), samples=4, judge=True)
    assert found.report is not None
    judged = found.report.judged
    assert judged is not None
    assert (judged.useful, judge.trained_on) == (False, [])
    assert judged.reason is not None
    assert "of 4 training questions have right and wrong outputs" in judged.reason
    assert set(found.report.rows) == {"vote"}


@pytest.mark.parametrize("knows", [True, False])
def test_a_judge_is_offered_where_its_best_is_above_vote_and_greedy(
    knows: bool,
) -> None:
    """At this temperature the four outputs of a question differ, and one is mostly right; the gold
    labels are others than the student's, so that its greedy answers are all wrong."""
    golds = (*LABELS[1:], LABELS[0])
    whole = make_dataset(golds)
    many = replace(
        whole,
        examples=tuple(replace(e, id=f"{e.id} {i}") for i in range(8) for e in whole.examples),
        questions=tuple(
            q.model_copy(update={"id": f"{q.id} {i}"}) for i in range(8) for q in QUESTIONS
        ),
    )
    repeated = LabeledQuestions(QUESTIONS * 8, golds * 8, LABELS * 8, LABELS * 8)
    judge = KnowingJudge(golds if knows else LABELS)
    found = measure(
        AnswerJudgeTraining("judge-1", lambda: judge),
        replace(many, validation=repeated),
        samples=16,
        temperature=2.0,
        judge=True,
    )
    assert found.report is not None
    judged = found.report.judged
    assert judged is not None
    assert judged.health == {"auc": 1.0}
    assert judged.trained_on == len(judge.trained_on) > 0
    for pair in judge.trained_on:
        assert all(split_joined_output(text)[1] in LABELS for text in pair.positives)
    assert {one.baseline for one in judged.validation} == {"vote", "greedy"}
    assert judged.useful is knows
    assert (judged.reason is None) is knows
    assert set(found.report.rows) == {"vote", "best_of", "weighted"}
    assert found.vote_confidence is not None
    # A vote is served without the judge where it does not help.
    assert ("score" in found.vote_confidence.weights) is knows
    if judged.reason is not None:
        assert "its best of 16 is not shown to be above their vote" in judged.reason
