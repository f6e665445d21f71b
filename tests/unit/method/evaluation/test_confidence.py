"""How sure a student is: of what, how it is calibrated, and when a question is the teacher's."""

from __future__ import annotations

import math
import random

import pytest

from qcrd.method.evaluation.cascade import choose_threshold, confirm
from qcrd.method.evaluation.confidence import (
    add_confidence,
    calibrate,
    make_confidence,
    measure_doubt,
)
from qcrd.records.rationales import Prediction
from qcrd.records.reports.doubt import CascadeReport
from qcrd.records.students.confidence import (
    Confidence,
    compute_log_odds,
    compute_share_log_odds,
    compute_vote_features,
    sum_answer_logprobs,
)


def prediction(
    answer: str | None = "a", gold: str = "a", logprob: float | None = -0.1, **more: object
) -> Prediction:
    told = {"question_id": "q", "text": "", "answer": answer, "gold": gold}
    return Prediction.model_validate(
        {**told, "right": answer == gold, "answer_logprob": logprob, **more}
    )


@pytest.mark.parametrize("p", [0.001, 0.3, 0.5, 0.9, 0.9999])
def test_log_odds_are_those_of_the_probability(p: float) -> None:
    assert compute_log_odds(math.log(p)) == pytest.approx(math.log(p / (1 - p)), rel=1e-9)


def test_what_is_certain_has_finite_odds() -> None:
    assert compute_log_odds(0.0) == 20.0
    assert compute_log_odds(-1e9) == -20.0
    assert compute_share_log_odds(4, 4) == -compute_share_log_odds(0, 4) < 3


@pytest.mark.parametrize(
    ("tokens", "mark", "total"),
    [
        ([5, 9, 8, 3, 0], [9, 8], -12.0),  # tokens 3 and 0, the end
        ([9, 8, 5, 9, 8, 3], [9, 8], -6.0),  # the last mark counts
        ([5, 9, 8], [9, 8], None),  # nothing behind it
        ([5, 3, 0], [9, 8], None),
        ([5, 3, 0], [], -7.0),  # all of it is the answer
    ],
)
def test_an_answer_is_what_stands_behind_the_last_mark(
    tokens: list[int], mark: list[int], total: float | None
) -> None:
    logprobs = [-1.0, -2.0, -4.0, -5.0, -7.0, -6.0][: len(tokens)]
    assert sum_answer_logprobs(tokens, logprobs, mark) == total


# --- calibration ----------------------------------------------------------------------------------


def test_without_a_question_the_confidence_is_the_answer_s_own_probability() -> None:
    assert calibrate([], []) == (0.0, {"answer": 1.0})
    made = make_confidence([], [7])
    assert made.mark == (7,)
    assert made.compute({"answer": compute_log_odds(math.log(0.8))}) == pytest.approx(0.8)


def test_a_student_that_is_too_sure_is_believed_less() -> None:
    """It is right as often as half of its log-odds say: the slope is found, and the Brier score
    falls below that of its own probabilities."""
    rng = random.Random(0)
    odds = [rng.uniform(-6, 6) for _ in range(4000)]
    right = [rng.random() < 1 / (1 + math.exp(-z / 2)) for z in odds]
    offset, weights = calibrate([{"answer": z} for z in odds], right)
    assert weights["answer"] == pytest.approx(0.5, abs=0.05)
    assert offset == pytest.approx(0.0, abs=0.1)
    made = Confidence(offset=offset, weights=weights)

    def brier(p: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(p, right, strict=True)) / len(right)

    calibrated = brier([made.compute({"answer": z}) for z in odds])
    assert calibrated < brier([1 / (1 + math.exp(-z)) for z in odds]) - 0.01


def test_calibration_is_where_the_penalised_likelihood_is_flat() -> None:
    """Its gradient by hand, offset and two weights, at the solution."""
    rows = [
        {"share": 1.0, "answer": 2.0},
        {"share": -1.0, "answer": 0.5},
        {"share": 3.0, "answer": -2.0},
    ]
    right = [True, False, False]
    offset, weights = calibrate(rows, right)
    made = Confidence(offset=offset, weights=weights)
    errors = [made.compute(row) - is_right for row, is_right in zip(rows, right, strict=True)]
    flat = [
        sum(errors) + 1 * offset,
        sum(e * row["share"] for e, row in zip(errors, rows, strict=True))
        + 4 * (weights["share"] - 1),
        sum(e * row["answer"] for e, row in zip(errors, rows, strict=True)) + 4 * weights["answer"],
    ]  # fmt: skip
    assert flat == pytest.approx([0, 0, 0], abs=1e-8)


def test_separable_answers_do_not_run_away() -> None:
    offset, weights = calibrate([{"answer": z} for z in (-20.0, 20.0) * 50], [False, True] * 50)
    assert abs(offset) < 1
    assert 0.2 < weights["answer"] < 3


def test_no_answer_is_no_confidence() -> None:
    given = [prediction(), prediction(answer=None), prediction(logprob=None)]
    made = make_confidence(given, ())
    sure, *unsure = add_confidence(given, made)
    assert sure.confidence is not None
    assert sure.confidence > 0.5
    assert [one.confidence for one in unsure] == [0.0, 0.0]


def test_doubt_is_measured_by_hand() -> None:
    given = [
        prediction(confidence=0.9),
        prediction(confidence=0.6),
        prediction(answer="b", confidence=0.7),
        prediction(confidence=1.0),
    ]
    found = measure_doubt(given, calibrated_on=16)
    assert found is not None
    assert (found.n, found.calibrated_on) == (4, 16)
    assert found.brier == pytest.approx((0.01 + 0.16 + 0.49 + 0) / 4)
    assert found.brier_constant == 0.75 * 0.25
    assert found.auroc == 2 / 3  # .9 and 1 are above .7, .6 is not
    assert sum(one.n for one in found.reliability) == 4
    assert measure_doubt([prediction()], calibrated_on=3) is None


def test_the_features_of_a_vote() -> None:
    told = compute_vote_features([(math.log(0.8), 0.9), (math.log(0.5), 0.5)], 4)
    assert told["share"] == 0.0  # two of four
    assert told["answer"] == pytest.approx((math.log(4) + 0) / 2)
    assert told["score"] == pytest.approx(math.log(9) / 2)
    assert set(compute_vote_features([(None, None)], 4)) == {"share", "answer"}


# --- the cascade ----------------------------------------------------------------------------------


def graded(n: int, agreeing: int) -> tuple[list[Prediction], list[str]]:
    """Confidences from .99 down; the first `agreeing` say what the teacher says."""
    made = [prediction(confidence=0.99 - i / 1000) for i in range(n)]
    return made, ["a" if i < agreeing else "b" for i in range(n)]


def test_the_threshold_is_the_lowest_whose_lower_bound_suffices() -> None:
    """400 questions, of which the surest 300 agree: Wilson's bound of 300 in 300 is .9874, of 310
    .9462 and of 313 .9348."""
    predictions, votes = graded(400, 300)
    found = choose_threshold(predictions, votes, teacher="big", wanted=0.95)
    assert found.reason is None
    assert found.validation_low is not None
    assert found.validation_low >= 0.95
    kept = found.validation_kept
    assert found.threshold == predictions[kept - 1].confidence
    assert found.validation_agreeing == 300
    one_more = choose_threshold(
        predictions, votes, teacher="big", wanted=found.validation_low + 1e-6
    )
    assert one_more.validation_kept == kept - 1


def test_few_questions_are_all_the_teacher_s() -> None:
    predictions, votes = graded(99, 99)
    found = choose_threshold(predictions, votes, teacher="big", wanted=0.5)
    assert found.threshold is None
    assert found.reason is not None
    assert "99 validation questions have a vote" in found.reason
    unasked = choose_threshold(predictions * 4, [None] * 396, teacher="big", wanted=0.5)
    assert unasked.threshold is None


def test_a_student_that_never_agrees_enough_keeps_nothing() -> None:
    predictions, votes = graded(200, 120)
    found = choose_threshold(predictions[::-1], votes, teacher="big", wanted=0.99)
    assert found.threshold is None
    assert found.reason is not None
    assert "0.99: 120 of 200 agree" in found.reason


def test_equal_confidences_are_on_one_side() -> None:
    predictions = [prediction(confidence=0.5)] * 200
    found = choose_threshold(predictions, ["a"] * 190 + ["b"] * 10, teacher="big", wanted=0.9)
    assert found.validation_kept in (0, 200)


def test_it_is_confirmed_on_questions_of_the_test() -> None:
    """Kept: one right and agreeing, one wrong. Handed on: one that the teacher knows, one not."""
    chosen = CascadeReport(teacher="big", wanted=0.9, threshold=0.6)
    predictions = [
        prediction(confidence=0.9),
        prediction(answer="b", confidence=0.6),
        prediction(answer="b", confidence=0.5),
        prediction(confidence=0.1),
    ]
    found = confirm(chosen, predictions, ["a", "a", "a", "c"], question_cost=0.002, currency="USD")
    assert (found.n, found.kept, found.agreeing) == (4, 2, 1)
    assert (found.right, found.student_right, found.teacher_right) == (2, 2, 3)
    assert found.escalated_per_1000 == 500
    assert (found.cost_per_1000, found.currency) == (1.0, "USD")
    alone = CascadeReport(teacher="big", wanted=0.9, threshold=None, reason="few")
    everything = confirm(alone, predictions, ["a"] * 4, question_cost=None, currency="USD")
    assert (everything.kept, everything.right, everything.escalated_per_1000) == (0, 4, 1000)
    assert (everything.cost_per_1000, everything.currency) == (None, None)


def test_a_unanimous_vote_for_what_the_student_itself_doubts_is_doubted() -> None:
    """Unanimous outputs, which are held to the labels, of an answer that the student itself gives
    one chance in two thousand: calibration has seen unanimity with right answers only."""
    rng = random.Random(0)
    rows = [
        {"answer": rng.gauss(2.5, 1.5), "share": compute_share_log_odds(rng.choice((3, 4)), 4)}
        for _ in range(36)
    ] + [{"answer": rng.gauss(0.5, 1.5), "share": compute_share_log_odds(2, 4)} for _ in range(3)]
    offset, weights = calibrate(rows, [True] * 36 + [False] * 3)
    confidence = Confidence(offset=offset, weights=weights)
    foreign = compute_vote_features([(math.log(0.0005), None)] * 4, 4)
    assert confidence.compute(foreign) < 0.2
    own = compute_vote_features([(math.log(0.9), None)] * 4, 4)
    assert confidence.compute(own) > 0.9
