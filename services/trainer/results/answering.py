"""The ways in which a finished student can answer, and how sure it is when it does."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qcrd.method.evaluation import cascade, predict, sampled_answers
from qcrd.method.evaluation import confidence as calibration
from qcrd.method.evaluation.sampled_answers import SampledAnswers
from qcrd.method.evaluation.statistics import compare_methods
from qcrd.records.rationales import Prediction
from qcrd.records.reports.answering import AnsweringReport
from qcrd.records.reports.doubt import CascadeReport, DoubtReport
from qcrd.records.reports.serving import StudentServing
from qcrd.records.students.confidence import Confidence
from qcrd.records.students.fallback import Fallback
from services.trainer.data.training_dataset import LabeledQuestions, TrainingDataset
from services.trainer.results import answer_judging
from services.trainer.results.answer_judging import AnswerJudgeTraining, Scores
from services.trainer.results.measuring import Asker
from services.trainer.results.rationale_swap import measure_swap
from services.trainer.results.serving import measure_serving

GREEDY = "greedy"
NEVER_SURE = 2.0
"""A threshold that no confidence reaches."""


@dataclass(frozen=True)
class StudentAnswers:
    """Greedy predictions with their confidence, and what else was measured. `confidence` and
    `vote_confidence` go with the published student."""

    validation: tuple[Prediction, ...]
    test: tuple[Prediction, ...]
    confidence: Confidence | None = None
    vote_confidence: Confidence | None = None
    doubt: DoubtReport | None = None
    cascade: CascadeReport | None = None
    report: AnsweringReport | None = None
    serving: StudentServing | None = None


def measure_answers(
    asker: Asker,
    dataset: TrainingDataset,
    judge: AnswerJudgeTraining | None = None,
    *,
    is_published: bool = True,
) -> StudentAnswers:
    """Every rank takes part. `judge` is trained where the spec asks for one; of a baseline, which
    is not published, nothing is measured but its greedy answers and their confidence."""
    questions = LabeledQuestions(
        tuple(t.question for t in dataset.test), tuple(t.gold for t in dataset.test), ()
    )
    asker.tell(
        f"greedy answers to {len(dataset.validation.questions)} validation and "
        f"{len(questions.questions)} test questions"
    )
    # Together: a few questions by themselves would take a batch that is hardly filled.
    n_validation, started = len(dataset.validation.questions), time.monotonic()
    answered = asker.answer(_join_questions(dataset.validation, questions))
    validation, test = answered[:n_validation], answered[n_validation:]
    seconds = (time.monotonic() - started) * len(test) / max(1, len(answered))
    serving = measure_serving(asker, questions, seconds) if is_published else None
    objective = asker.schedule.objective
    if objective.joined:  # its mark is a part of its answer
        return StudentAnswers(tuple(validation), tuple(test), serving=serving)
    mark = asker.student.make_mark() if objective.says_both else ()
    confidence = calibration.make_confidence(validation, mark)
    sure_validation = calibration.add_confidence(validation, confidence)
    sure_test = calibration.add_confidence(test, confidence)
    doubt = calibration.measure_doubt(sure_test, calibrated_on=len(validation))
    answers = StudentAnswers(sure_validation, sure_test, confidence, doubt=doubt, serving=serving)
    if is_published:
        answers = _add_fallback(asker, dataset, answers)
    if not objective.says_both or not is_published:
        return answers
    return _add_samples(asker, dataset, questions, answers, judge)


def _join_questions(one: LabeledQuestions, other: LabeledQuestions) -> LabeledQuestions:
    return LabeledQuestions((*one.questions, *other.questions), (*one.golds, *other.golds), ())


def _add_fallback(
    asker: Asker, dataset: TrainingDataset, answers: StudentAnswers
) -> StudentAnswers:
    """With the confidence below which a question is the teacher's to answer."""
    settings = asker.schedule.spec
    wanted = settings.evaluation.fallback
    if wanted is None or answers.confidence is None:
        return answers
    chosen = cascade.choose_threshold(
        answers.validation,
        dataset.validation.votes or (None,) * len(answers.validation),
        teacher=wanted.teacher or settings.teacher,
        wanted=wanted.agreement,
    )
    threshold = NEVER_SURE if chosen.threshold is None else chosen.threshold
    fallback = Fallback(
        teacher=chosen.teacher,
        threshold=threshold,
        task=settings.task,
        rationales=settings.rationales,
    )
    confidence = answers.confidence.model_copy(update={"fallback": fallback})
    return replace(answers, confidence=confidence, cascade=chosen)


def _add_samples(
    asker: Asker,
    dataset: TrainingDataset,
    questions: LabeledQuestions,
    answers: StudentAnswers,
    judge: AnswerJudgeTraining | None,
) -> StudentAnswers:
    """Of a student that answers behind its rationale."""
    settings, seed = asker.schedule.spec.evaluation, asker.schedule.seed
    report = AnsweringReport(swap=measure_swap(asker, questions, answers.test))
    if not settings.samples:
        return replace(answers, report=report)
    val_samples = asker.sample(dataset.validation, "validation")
    test_samples = asker.sample(questions, "test")
    judged, val_scores, test_scores = None, None, None
    if settings.judge and judge is not None:
        judged, scorer = judge.train(asker, dataset)
        if scorer is not None:
            val_scores = scorer.score(dataset.validation.questions, val_samples)
            test_scores = scorer.score(questions.questions, test_samples)
            judged = answer_judging.check_usefulness(
                judged, val_samples, val_scores, (GREEDY, answers.validation), seed=seed
            )
    rows = _choose_rows(test_samples, test_scores) if answers.test else {}
    greedy = (GREEDY, [p.right for p in answers.test])
    report = report.model_copy(
        update={
            "samples": settings.samples,
            "temperature": settings.temperature,
            "rows": {
                name: sampled_answers.count_tokens(predict.accuracy(chosen), test_samples)
                for name, chosen in rows.items()
            },
            "comparisons": tuple(
                compare_methods((name, [p.right for p in chosen]), greedy, seed=seed)
                for name, chosen in rows.items()
            ),
            "judged": judged,
        }
    )
    # A vote is served without the judge where it does not help.
    used = val_scores if judged is not None and judged.useful else None
    vote_confidence = _calibrate_vote(asker, answers, val_samples, used)
    return replace(answers, report=report, vote_confidence=vote_confidence)


def _choose_rows(samples: SampledAnswers, scores: Scores | None) -> dict[str, list[Prediction]]:
    rows = {"vote": sampled_answers.choose_by_vote(samples)}
    if scores is not None:
        rows["best_of"] = sampled_answers.choose_best(samples, scores)
        rows["weighted"] = sampled_answers.choose_by_weight(samples, scores)
    return rows


def _calibrate_vote(
    asker: Asker, answers: StudentAnswers, samples: SampledAnswers, scores: Scores | None
) -> Confidence:
    voted = sampled_answers.choose_by_vote(samples)
    features = sampled_answers.list_vote_features(samples, voted, scores)
    offset, weights = calibration.calibrate(features, [p.right for p in voted])
    settings = asker.schedule.spec.evaluation
    return Confidence(
        mark=() if answers.confidence is None else answers.confidence.mark,
        offset=offset,
        weights=weights,
        samples=settings.samples,
        temperature=settings.temperature,
    )


def compute_answer_tokens(predictions: Sequence[Prediction]) -> float | None:
    """The mean tokens of an output; None where none were counted."""
    known = [p.tokens for p in predictions if p.tokens is not None]
    return sum(known) / len(known) if known else None
