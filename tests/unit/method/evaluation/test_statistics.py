"""Intervals and paired tests by hand."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from qcrd.method.evaluation.statistics import (
    compare_methods,
    crossed_bootstrap,
    flag_leaked,
    flag_repeated,
    mcnemar_test,
    paired_bootstrap,
    t_interval,
    wilson_interval,
)
from qcrd.method.evaluation.verdicts import seeds_needed_by_a_pair
from tests.conftest import data_folder


def test_wilson_by_hand() -> None:
    """8 of 10, z 1.96: centre (.8 + z2/20) / (1 + z2/10), half z sqrt(.016 + z2/400) / (...)."""
    z = 1.959964
    scale = 1 + z * z / 10
    centre = (0.8 + z * z / 20) / scale
    half = z * math.sqrt(0.8 * 0.2 / 10 + z * z / 400) / scale
    found = wilson_interval(8, 10)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert (found.accuracy, found.n) == (0.8, 10)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_accuracy(case: tuple[int, int]) -> None:
    found = wilson_interval(*case)
    assert 0 <= found.low <= found.accuracy + 1e-12
    assert found.accuracy - 1e-12 <= found.high <= 1


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (1, 3), (131, 200), (8861, 9824)])
def test_wilson_is_statsmodels(right: int, n: int) -> None:
    found = wilson_interval(right, n)
    expected = proportion_confint(right, n, alpha=0.05, method="wilson")
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-12)


def outcomes(both: int, first: int, second: int, neither: int) -> tuple[list[bool], list[bool]]:
    """Items right for both, for the first alone, for the second alone, for neither."""
    pairs = [(True, True)] * both + [(True, False)] * first
    pairs += [(False, True)] * second + [(False, False)] * neither
    return [a for a, _ in pairs], [b for _, b in pairs]


counts = st.integers(0, 40)


@given(st.tuples(counts, counts, counts, counts))
def test_mcnemar_is_statsmodels(table: tuple[int, int, int, int]) -> None:
    both, first, second, neither = table
    expected = reference_mcnemar([[both, first], [second, neither]], exact=True).pvalue
    # With no item to tell them apart nothing speaks against their being equal.
    expected = 1.0 if first == second == 0 else min(1.0, expected)
    assert mcnemar_test(*outcomes(*table)) == pytest.approx(expected, abs=1e-12)


def test_mean_over_seeds_by_hand() -> None:
    """.6 .7 .8: mean .7, standard error .1 / sqrt 3, t(2) 4.302653."""
    found = t_interval([0.6, 0.7, 0.8])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7 - half, 0.7 + half))
    assert t_interval([0.5]).high == math.inf


def test_mcnemar_by_hand() -> None:
    """Differing on 6 items, 1 against 5: 2 * (C(6,0) + C(6,1)) / 64 = 14 / 64."""
    first = [True] + [False] * 5 + [True] * 10
    second = [False] + [True] * 5 + [True] * 10
    assert mcnemar_test(first, second) == pytest.approx(14 / 64)
    assert mcnemar_test(first, first) == 1.0


def test_paired_bootstrap_is_seeded_and_holds_the_difference() -> None:
    first, second = [True, False] * 50, [True, True] * 50
    found = paired_bootstrap(first, second, seed=1)
    assert found.value == 0.5
    assert 0.38 < found.low < 0.5 < found.high < 0.62
    assert found == paired_bootstrap(first, second, seed=1)


def test_the_bootstrap_has_the_spread_of_resampled_items() -> None:
    """Of 200 items 30 only for the first, 10 only for the second: mean -.1, variance per item
    (30 + 10) / 200 - .01 = .19, so ±1.96 · sqrt(.19 / 200) = ±.0604. Drawing items one by one, as
    the bootstrap is defined, gives the same bounds."""
    first, second = outcomes(100, 30, 10, 60)
    found = paired_bootstrap(first, second, seed=3)
    assert found.value == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((-0.1604, -0.0396), abs=0.006)
    difference = np.array(second, dtype=float) - np.array(first)
    picks = np.random.default_rng(3).integers(0, 200, (10_000, 200))
    low, high = np.quantile(difference[picks].mean(1), [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)


def test_mcnemar_of_thousands_is_scipy_s() -> None:
    first, second = outcomes(5_000, 1_310, 1_382, 2_132)
    expected = stats.binomtest(1_310, 2_692).pvalue
    assert mcnemar_test(first, second) == pytest.approx(expected, rel=1e-9)


def test_the_crossed_bootstrap_of_three_questions_and_two_seeds_is_that_of_all_resamples() -> None:
    """Of 4 draws of the seeds and 27 of the questions all 108 pairs are as likely. With 20,000
    draws the two sides' shares are known to about 0.01."""
    gains = np.array([[1, 1, -1], [1, 0, 0]])
    every = sorted(
        sum(gains[seed, question] for seed in seeds for question in questions)
        for seeds in itertools.product(range(2), repeat=2)
        for questions in itertools.product(range(3), repeat=3)
    )
    below = sum(one <= 0 for one in every) / 108
    found = crossed_bootstrap(gains, seed=0, draws=20_000)
    assert found.value == pytest.approx(2 / 6)
    assert found.p == pytest.approx(2 * below, abs=0.02)
    assert found.low == pytest.approx(every[2] / 6)
    assert found.high == pytest.approx(every[-3] / 6)
    assert found == crossed_bootstrap(gains, seed=0, draws=20_000)


def test_with_one_seed_the_crossed_bootstrap_is_scipy_s_of_the_questions() -> None:
    rng = np.random.default_rng(1)
    gains = rng.choice([-1, 0, 1], p=[0.1, 0.7, 0.2], size=(1, 200))
    ours = crossed_bootstrap(gains, seed=0)
    theirs = stats.bootstrap(
        (gains[0],), np.mean, n_resamples=10_000, method="percentile", rng=2
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_the_crossed_bootstrap_has_the_scatter_of_the_seeds_too() -> None:
    """20 seeds that agree on all questions or on none: over seeds sd .1 / √20 = .022, ± .044;
    over questions alone it would be ± .004."""
    rng = np.random.default_rng(2)
    chances = np.clip(rng.normal(0.5, 0.1, 20), 0, 1)
    gains = (rng.random((20, 10_000)) < chances[:, None]).astype(int)
    found = crossed_bootstrap(gains, seed=0)
    half = 1.96 * float(gains.mean(axis=1).std()) / math.sqrt(20)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_a_difference_of_nothing_is_not_significant_and_one_of_everything_is() -> None:
    same = crossed_bootstrap(np.zeros((2, 10), dtype=int), seed=0)
    assert (same.value, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    always = crossed_bootstrap(np.ones((2, 10), dtype=int), seed=0, draws=999)
    assert (always.value, always.p) == (1.0, 2 / 1000)


def test_a_comparison_by_hand() -> None:
    """20 items: 6 only for the method, 1 only for the baseline: + 5 / 20, and
    p = 2 · (C(7,0) + C(7,1)) / 128 = 16 / 128."""
    ours, theirs = outcomes(10, 6, 1, 3)
    found = compare_methods(("qcrd", ours), ("dss", theirs), seed=7)
    assert (found.method, found.baseline, found.n) == ("qcrd", "dss", 20)
    assert (found.only_method, found.only_baseline) == (6, 1)
    assert found.difference == pytest.approx(0.25)
    assert found.p == pytest.approx(16 / 128)
    assert found.low < 0.25 < found.high
    assert (found.seed, found.draws) == (7, 10_000)
    assert found.seeds_needed == seeds_needed_by_a_pair(6, 1, 20)
    assert compare_methods(("qcrd", ours), ("dss", theirs), seed=7) == found
    turned = compare_methods(("dss", theirs), ("qcrd", ours), seed=7)
    assert turned.difference == -found.difference


def test_students_that_answer_alike_do_not_differ() -> None:
    same = compare_methods(("qcrd", [True, False]), ("dss", [True, False]), seed=0)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_items_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="zip"):
        compare_methods(("qcrd", [True]), ("dss", [True, False]), seed=0)


def test_only_the_same_text_is_a_repetition() -> None:
    training = ["Ann has 3 apples.\nHow many?"]
    test = ["ann has  3 apples. How many?", "Ann has 4 apples.\nHow many?"]
    assert flag_repeated(training, test) == [True, False]
    assert flag_leaked(training, test[1:]) == [True]


def test_leaks_look_through_numbers_case_and_spacing() -> None:
    training = ["Ann has 3 apples.", "Bob had 1,200 nuts."]
    test = ["ann  has 17 apples.", "Bob had 5 nuts.", "Ann has three apples."]
    assert flag_leaked(training, test) == [True, True, False]


def test_what_is_asked_about_a_story_does_not_hide_it() -> None:
    training = ["Ann has 3 apples and eats 1\nHow many are left?"]
    test = ["Ann has 9 apples and eats 4\nHow many did she eat?", "How many are left?"]
    assert flag_leaked(training, test) == [True, False]


def test_svamp_repeats_as_many_stories_as_is_known() -> None:
    folder = data_folder("svamp")
    questions = [
        [json.loads(line)["question"] for line in (folder / name).read_text().splitlines()]
        for name in ("train.jsonl", "test.jsonl")
    ]
    assert sum(flag_leaked(*questions)) == 105
