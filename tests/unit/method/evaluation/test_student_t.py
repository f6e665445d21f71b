"""Student's distribution and the power of its test, against scipy and statsmodels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from qcrd.method.evaluation.student_t import (
    count_seeds_needed,
    t_critical_value,
    t_test_power,
    upper_tail,
)
from qcrd.records.reports.verdicts import MAX_SEEDS_NEEDED, MIN_SEEDS, format_seeds_needed


def test_student_s_bound_is_scipy_s() -> None:
    found = [t_critical_value(freedom) for freedom in range(1, 300)]
    assert found == pytest.approx(stats.t.ppf(0.975, np.arange(1, 300)), abs=1e-9)


@pytest.mark.parametrize("level", [0.05 / 255, 0.0125, 0.2])
@pytest.mark.parametrize("freedom", [1, 2, 4, 31])
def test_other_levels_have_their_bound(freedom: int, level: float) -> None:
    expected = stats.t.ppf(1 - level / 2, freedom)
    assert t_critical_value(freedom, level) == pytest.approx(expected, rel=1e-6)


@given(st.floats(-60, 60), st.integers(1, 200))
def test_the_tail_is_scipy_s(t: float, freedom: int) -> None:
    found = upper_tail(t, freedom)
    assert 0 <= found <= 1
    assert found == pytest.approx(stats.t.sf(t, freedom), abs=1e-12)


@pytest.mark.parametrize("effect", [0.0, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("n", [MIN_SEEDS, 8, 30, 1000])
@pytest.mark.parametrize("level", [0.05, 0.01, 0.05 / 255])
def test_power_is_that_of_the_noncentral_t(effect: float, n: int, level: float) -> None:
    bound = stats.t.ppf(1 - level / 2, n - 1)
    expected = stats.nct.sf(bound, n - 1, effect * np.sqrt(n))
    assert t_test_power(effect, n, level) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("difference", "sd"), [(0.015, 0.01), (0.015, 0.02), (0.015, 0.1)])
@pytest.mark.parametrize("level", [0.05, 0.0125])
def test_the_seeds_needed_are_statsmodels_own(difference: float, sd: float, level: float) -> None:
    needed = TTestPower().solve_power(difference / sd, alpha=level, power=0.8)
    assert count_seeds_needed(difference, sd, level=level) == int(np.ceil(needed))


def test_the_seeds_needed_by_hand() -> None:
    """Difference = sd: (1.96 + .84)² = 7.85 by the normal, and 2 more for Student's tails."""
    assert count_seeds_needed(0.015, 0.015) == 10


def test_the_seeds_needed_have_bounds() -> None:
    assert count_seeds_needed(0.015, 1e-9) == MIN_SEEDS
    assert count_seeds_needed(0.015, 5.0) == MAX_SEEDS_NEEDED + 1
    assert format_seeds_needed(MAX_SEEDS_NEEDED + 1) == "over 1,000"
    assert format_seeds_needed(MAX_SEEDS_NEEDED) == "about 1,000"
    assert format_seeds_needed(None) == ""
