"""The verdict on methods: by hand, against scipy and statsmodels, and where there is nothing to
decide by. How often it is wrong is in tests/unit/benchmarks/test_verdicts.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from qcrd.method.evaluation.verdicts import (
    Decision,
    decide,
    guess_scatter,
    holm_correction,
    paired_t,
    seeds_needed_by_a_pair,
)
from qcrd.records.reports.verdicts import Verdict, describe_one_seed

BETTER, WORSE, NO_DIFFERENCE, CANNOT_TELL = Verdict


def test_the_words() -> None:
    assert list(Verdict) == ["better", "worse", "no difference", "cannot tell"]


def decide_one(*differences: float, comparisons: int = 1, margin: float = 0.015) -> Decision:
    (found,) = decide([differences], comparisons=comparisons, margin=margin)
    return found


def test_a_paired_t_by_hand() -> None:
    """.01 .02 .03 .04 .05: mean .03, sd .01581, error .00707, t 4.243; t(4) at 95 % is 2.776.

    Against the margin .015: (.03 - .015) / .00707 = 2.12 on the wrong side of it.
    """
    found = paired_t([0.01, 0.02, 0.03, 0.04, 0.05])
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.03 - 0.01963, 0.03 + 0.01963), abs=1e-5)
    assert found.p == pytest.approx(2 * stats.t.sf(4.2426, 4), abs=1e-5)
    assert found.equivalence_p == pytest.approx(1 - stats.t.sf(2.1213, 4), abs=1e-5)


values = st.lists(st.floats(-0.2, 0.2), min_size=2, max_size=12)


@given(values, st.floats(0.001, 0.1))
def test_both_tests_are_those_of_the_libraries(differences: list[float], margin: float) -> None:
    found = paired_t(differences, margin)
    if max(differences) - min(differences) < 1e-9:
        return
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=1e-9)
    expected = DescrStatsW(np.array(differences)).ttost_mean(-margin, margin)[0]
    assert found.equivalence_p == pytest.approx(expected, abs=1e-9)


def test_holm_by_hand() -> None:
    """Sorted .01 .03 .04, times 3, 2, 1: .03 .06 .04, and the last may not fall below .06."""
    assert holm_correction([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm_correction([0.6, 0.7]) == [1.0, 1.0]
    assert holm_correction([]) == []


@given(st.lists(st.floats(min_value=0, max_value=1), min_size=1, max_size=8), st.integers(0, 4))
def test_holm_is_statsmodels_own(ps: list[float], left_out: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)  # a tenth of a second, at every call of theirs
        expected = multipletests(ps + [1.0] * left_out, method="holm")[1][: len(ps)]
    assert holm_correction(ps, len(ps) + left_out) == pytest.approx(list(expected))


# --- the words, one for each case -----------------------------------------------------------------

CLEAR = (0.03, 0.035, 0.04, 0.03, 0.035)
"""Mean .034, error .0019: t 18, p .00006."""
FLAT = (0.001, -0.002, 0.002, -0.001, 0.001)
"""Mean .0002, error .0007: t .3; .0148 from the margin is t 20."""
LOOSE = (0.06, -0.04, 0.05, -0.02, 0.01)


def test_each_verdict_has_its_case() -> None:
    assert decide_one(*CLEAR).verdict == BETTER
    assert decide_one(*(-each for each in CLEAR)).verdict == WORSE
    assert decide_one(*FLAT).verdict == NO_DIFFERENCE
    loose = decide_one(*LOOSE)
    assert loose.verdict == CANNOT_TELL
    assert loose.seeds_needed is not None
    assert loose.seeds_needed > 5
    assert decide_one(*CLEAR).seeds_needed is None
    assert decide_one(*FLAT).seeds_needed is None


def test_a_sure_difference_below_the_margin_is_a_difference() -> None:
    """Mean .0052, error .0004: found to be there, and found to be below .015."""
    found = decide_one(0.005, 0.006, 0.004, 0.005, 0.006)
    assert found.p_holm < 0.05
    assert found.equivalence_p_holm < 0.05
    assert found.verdict == BETTER


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_below_five_seeds_nothing_is_told(seeds: int) -> None:
    assert decide_one(*CLEAR[:seeds]).verdict == CANNOT_TELL
    assert decide_one(*FLAT[:seeds]).verdict == CANNOT_TELL


def test_the_margin_is_the_study_s() -> None:
    assert decide_one(*FLAT, margin=0.0005).verdict == CANNOT_TELL
    assert decide_one(*LOOSE, margin=0.2).verdict == NO_DIFFERENCE


def test_seeds_are_counted_for_the_margin_and_for_the_number_of_rows() -> None:
    """The sd of LOOSE is .0432: (2.80 · .0432 / .015)² = 65 by the normal, 2 more by t."""
    assert decide_one(*LOOSE).seeds_needed == 68
    alone, among_four = decide_one(*LOOSE), decide_one(*LOOSE, comparisons=4)
    assert alone.seeds_needed is not None
    assert among_four.seeds_needed is not None
    assert among_four.seeds_needed > alone.seeds_needed
    wide = decide_one(*LOOSE, margin=0.03).seeds_needed
    assert wide is not None
    assert wide < alone.seeds_needed


def test_rows_that_have_no_test_count_among_the_comparisons() -> None:
    """Mean .03, p .0132: below .05 alone and times three, not times four."""
    edge = (0.01, 0.02, 0.03, 0.04, 0.05)
    assert decide_one(*edge, comparisons=3).verdict == BETTER
    assert decide_one(*edge, comparisons=4).verdict == CANNOT_TELL
    few = (0.03, 0.03)
    assert [one.verdict for one in decide([edge, few, few, few])] == [CANNOT_TELL] * 4


def test_equivalence_is_corrected_as_well() -> None:
    """Mean 0, error .0045: .015 is t 3.35 away, p .0143: with four rows .057."""
    near = (0.008, -0.008, 0.0117, -0.0117, 0.0)
    assert decide_one(*near).verdict == NO_DIFFERENCE
    assert decide_one(*near, comparisons=3).verdict == NO_DIFFERENCE
    assert decide_one(*near, comparisons=4).verdict == CANNOT_TELL


@pytest.mark.parametrize("same", [0.0, 0.25, -0.25, 0.1])
def test_the_same_difference_under_every_seed_has_no_scatter(same: float) -> None:
    found = decide_one(*[same] * 6)
    assert (found.verdict, found.test, found.seeds_needed) == (CANNOT_TELL, None, None)


def test_equal_differences_of_unequal_accuracies_are_the_same() -> None:
    """.8 - .7, .7 - .6, …: they differ in their last bits, which would make any t."""
    rows = [right - wrong for right, wrong in ((0.8, 0.7), (0.7, 0.6), (0.4, 0.3), (0.9, 0.8))]
    assert len(set(rows)) > 1
    assert decide_one(*rows, rows[0]).verdict == CANNOT_TELL


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_no_number_tells_nothing(broken: float) -> None:
    rows = [(*CLEAR, broken), CLEAR]
    assert [one.verdict for one in decide(rows)] == [CANNOT_TELL, BETTER]


def test_no_row_and_an_empty_row() -> None:
    assert decide([]) == []
    assert decide_one().verdict == CANNOT_TELL


# --- one seed -------------------------------------------------------------------------------------


def test_the_scatter_of_one_pair_by_hand() -> None:
    """200 questions, 12 and 8 apart: .02² of chance ((20 - 16 / 200) / 200² = .000498), and two
    students that scatter by .01 each."""
    assert guess_scatter(12, 8, 200) == pytest.approx(math.sqrt(0.0002 + 0.000498), abs=1e-6)
    assert guess_scatter(0, 0, 200) == pytest.approx(math.sqrt(0.0002))
    assert guess_scatter(200, 0, 200) == pytest.approx(math.sqrt(0.0002))


def test_few_seeds_are_told_how_many_it_takes() -> None:
    (one,) = decide([[0.02]], scatter=[guess_scatter(12, 8, 200)])
    assert one.seeds_needed == seeds_needed_by_a_pair(12, 8, 200) == 27
    (equal,) = decide([[0.02, 0.02]], scatter=[guess_scatter(12, 8, 200)])
    assert equal.seeds_needed == 27
    (own,) = decide([[0.02, 0.021]], scatter=[guess_scatter(12, 8, 200)])
    assert own.seeds_needed == 5


def test_one_seed_in_words() -> None:
    assert describe_one_seed([27, None, 30]) == (
        "cannot tell: another seed would train other students. A study of at least 5 seeds can; "
        "about 30 would find a difference of 1.5 points with 80 % power, if a method's accuracy "
        "scatters by 1 point over seeds, as is assumed"
    )
    assert describe_one_seed([None]).endswith("A study of at least 5 seeds can")
