"""The judge's health by hand: per source, calibration, histograms, and when the alarm is raised."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from qcrd.method.judge.health import (
    auc,
    brier_score,
    compute_metrics,
    expected_calibration_error,
    has_collapsed,
    make_histograms,
    measure_health,
    reliability_bins,
    saw_no_real_negative,
)
from qcrd.method.judge.training_pairs import (
    CORRUPTED_SOURCE,
    UNKNOWN_SOURCE,
    QuestionRationale,
    TrainingPair,
    balance_negatives,
    count_real_negatives,
    make_training_pair,
)
from qcrd.records.rationales import Rationale, RationaleSource

SCORES = {"good": 0.9, "fair": 0.7, "poor": 0.4, "bad": 0.1}
KEPT = [
    TrainingPair("a", ("good",), ("poor", "bad"), ("student_lag", "teacher_minority")),
    TrainingPair("b", ("fair",), ("good",), ("teacher_minority",)),
]


def judge(pairs: Sequence[QuestionRationale]) -> list[float]:
    return [SCORES[rationale] for _, rationale in pairs]


def test_auc_by_hand() -> None:
    """.9 and .4 against .4 and .1: 3 wins and a tie of 4 pairs: 3.5 / 4."""
    assert auc([0.9, 0.4], [0.4, 0.1]) == pytest.approx(3.5 / 4)
    assert auc([], [0.1]) is None
    assert auc([0.1], []) is None


@given(*[st.lists(st.integers(0, 9).map(lambda n: n / 10), min_size=1)] * 2)
def test_auc_is_scipy_s(positives: list[float], negatives: list[float]) -> None:
    u = mannwhitneyu(positives, negatives).statistic
    assert auc(positives, negatives) == float(u) / (len(positives) * len(negatives))


def test_every_source_is_measured_by_itself() -> None:
    """Positives .9 and .7. The student's .4 loses to both: 1. The teacher's .1 and .9: .9 ties one
    and beats the other, .1 loses to both: 2.5 wins of 4. Together: 4.5 of 6."""
    measured, _ = measure_health(judge, KEPT)
    assert measured["auc_student_lag"] == 1.0
    assert measured["auc_teacher_minority"] == pytest.approx(2.5 / 4)
    assert measured["auc"] == pytest.approx(4.5 / 6)
    assert (measured["n_student_lag"], measured["n_teacher_minority"]) == (1, 2)
    assert measured["mean_student_lag"] == pytest.approx(0.4)
    assert measured["mean_teacher_minority"] == pytest.approx(0.5)
    assert measured["mean_positive"] == pytest.approx(0.8)
    assert measured["mean_negative"] == pytest.approx(1.4 / 3)
    assert measured["spread"] == pytest.approx(0.8)


def test_calibration_by_hand() -> None:
    """Positives .9, .7 and .92, negatives .9 and .1.

    Brier: (.1² + .3² + .08² + .9² + .1²) / 5 = (.01 + .09 + .0064 + .81 + .01) / 5 = .18528.
    Bins: [.1, .2) one score .1, no positive: gap .1; [.7, .8) one score .7, all positive: gap .3;
    [.9, 1] three of mean 2.72 / 3, 2 / 3 positive: gap .72 / 3 = .24.
    ECE: (1 · .1 + 1 · .3 + 3 · .24) / 5 = 1.12 / 5 = .224.
    """
    pos, neg = [0.9, 0.7, 0.92], [0.9, 0.1]
    assert brier_score(pos, neg) == pytest.approx(0.18528)
    bins = reliability_bins(pos, neg)
    assert [one.n for one in bins] == [0, 1, 0, 0, 0, 0, 0, 1, 0, 3]
    assert bins[9].score == pytest.approx(2.72 / 3)
    assert bins[9].positive == pytest.approx(2 / 3)
    assert bins[0].score is None
    assert bins[0].positive is None
    assert expected_calibration_error(bins) == pytest.approx(0.224)
    measured = compute_metrics((tuple(pos), {"student_lag": tuple(neg)}))
    assert (measured["brier"], measured["ece"]) == pytest.approx((0.18528, 0.224))


def test_histograms_count_each_source_and_the_positives() -> None:
    """.9 is the last bin's lower edge and 1 its upper; .7 opens the eighth."""
    shown = make_histograms(((0.9, 1.0, 0.7), {"fixed": (0.0, 0.05, 0.1)}))
    assert shown.scores["positives"] == (0, 0, 0, 0, 0, 0, 0, 1, 0, 2)
    assert shown.scores["fixed"] == (2, 1, 0, 0, 0, 0, 0, 0, 0, 0)
    assert set(measure_health(judge, KEPT)[1].scores) == {
        "positives",
        "student_lag",
        "teacher_minority",
    }


scores = st.lists(st.floats(0, 1), max_size=30)


@given(scores, scores, scores)
def test_bins_lose_no_score(pos: list[float], first: list[float], second: list[float]) -> None:
    negatives = {"fixed": tuple(first), "student_lag": tuple(second)}
    shown = make_histograms((tuple(pos), negatives))
    assert {name: sum(counts) for name, counts in shown.scores.items()} == {
        "positives": len(pos),
        "fixed": len(first),
        "student_lag": len(second),
    }
    assert sum(one.n for one in shown.reliability) == len(pos) + len(first) + len(second)
    if pos and first:
        assert 0 <= expected_calibration_error(reliability_bins(pos, first)) <= 1


def test_one_held_back_negative_raises_no_alarm() -> None:
    """It scores above all positives, AUC 0, and still says nothing about the judge."""
    measured = compute_metrics(((0.5,) * 20, {"teacher_minority": (0.9,)}))
    assert measured["auc"] == 0
    assert measured["alarm_negatives"] == 0
    assert not has_collapsed(measured)


def test_the_alarm_goes_by_the_sources_with_enough_negatives() -> None:
    """Five student samples at .1 under positives of .6 are told apart; the lone minority at .9
    would drag the AUC to 5/6 but has no say. Without them apart the alarm is raised."""
    pos = (0.6,) * 5
    fine = compute_metrics((pos, {"student_lag": (0.1,) * 5, "teacher_minority": (0.9,)}))
    assert fine["auc"] == pytest.approx(5 / 6)
    assert (fine["alarm_negatives"], fine["alarm_auc"]) == (5, 1.0)
    assert not has_collapsed(fine)
    blind = compute_metrics((pos, {"student_lag": (0.7,) * 5, "teacher_minority": (0.1,)}))
    assert blind["alarm_auc"] == 0
    assert has_collapsed(blind)
    assert compute_metrics((pos[:4], {"student_lag": (0.7,) * 5}))["alarm_negatives"] == 0


def test_scores_that_are_all_alike_raise_the_alarm() -> None:
    """In the right order, AUC 1, but within .01 of each other."""
    alike = compute_metrics(((0.51,) * 5, {"student_lag": (0.5,) * 5}))
    assert alike["alarm_auc"] == 1.0
    assert has_collapsed(alike)


def test_nothing_held_back_is_no_health_and_no_alarm() -> None:
    measured, shown = measure_health(judge, [])
    assert measured == {"positives": 0, "negatives": 0, "alarm_negatives": 0}
    assert shown.scores == {"positives": (0,) * 10}
    assert not has_collapsed(measured)


def rationale(text: str, source: RationaleSource) -> Rationale:
    return Rationale(id=text, question_id="q", text=text, source=source)


def test_a_contrast_names_where_its_negatives_are_from() -> None:
    teacher, student, fixed = (rationale(source.value, source) for source in RationaleSource)
    made = make_training_pair("q", [teacher], [teacher, student, fixed])
    assert made.positives == ("teacher",)
    assert made.sourced_negatives == (
        ("teacher_minority", "teacher"),
        ("student_lag", "student"),
        ("fixed", "fixed"),
    )
    assert TrainingPair("q", ("a",), ("b",)).sourced_negatives == ((UNKNOWN_SOURCE, "b"),)
    with pytest.raises(ValueError, match="1 sources for 2 negatives"):
        TrainingPair("q", (), ("a", "b"), ("fixed",))


def test_corruption_is_named_as_such() -> None:
    (filled,) = balance_negatives([TrainingPair("q", ("a b", "c d"), ("x",), ("fixed",))], seed=0)
    assert filled.sources == ("fixed", CORRUPTED_SOURCE)
    assert filled.negatives[0] == "x"


def test_real_negatives_are_counted_by_question_and_corruption_is_none() -> None:
    """Two questions have positives, one of them a wrong output too; a third has a wrong one alone,
    a fourth nothing."""
    pairs = [
        TrainingPair("both", ("a b",), ("x",)),
        TrainingPair("right", ("a b",), ()),
        TrainingPair("wrong", (), ("x",)),
        TrainingPair("none", (), ()),
    ]
    counts = count_real_negatives(pairs)
    assert counts == {
        "questions": 2,
        "questions_with_real_negatives": 1,
        "questions_without_positives": 1,
    }
    assert not saw_no_real_negative(counts)
    assert saw_no_real_negative(count_real_negatives(pairs[1:]))
    assert not saw_no_real_negative({})
