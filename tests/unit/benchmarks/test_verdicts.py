"""How often the verdict on methods is wrong where the truth is known: the first 200 studies of each
cell of `python -m benchmarks.verdicts`, which takes 2,000 (docs/results/2026-11-28-verdicts.md)."""

from __future__ import annotations

from itertools import islice

import pytest
from scipy import stats

from benchmarks import verdicts
from benchmarks.verdicts import CELLS, Condition, count_wrong, draw_studies, judge_studies
from qcrd.records.reports.verdicts import Verdict

STUDIES = 200


def test_equal_methods_are_called_equal_or_nothing() -> None:
    """5 % are allowed: 90 of 1,800, and 113 with what chance adds (6.3 %). More than 20 of the 200
    of a cell would be there once in 862."""
    assert len(CELLS) == 9
    wrong = [count_wrong(cell, STUDIES) for cell in CELLS]
    assert sum(wrong) <= 0.063 * STUDIES * len(CELLS)
    assert stats.binom.sf(20, STUDIES, 0.05) == pytest.approx(1 / 862, rel=0.01)
    assert max(wrong) <= 20


def test_several_methods_are_wrong_no_more_often_in_all() -> None:
    assert count_wrong(Condition(200, 0.01, methods=4), STUDIES) <= 20


def test_four_seeds_are_never_wrong() -> None:
    found = [*judge_studies(Condition(200, 0.02, seeds=4), 50)]
    assert found == [{Verdict.CANNOT_TELL}] * 50


def test_what_is_there_is_found() -> None:
    """5 points, of students that scatter by half a point on 9,824 questions; and none."""
    found = [*judge_studies(Condition(9_824, 0.005, difference=0.05), 20)]
    assert found == [{Verdict.BETTER}] * 20
    same = [*judge_studies(Condition(9_824, 0.002), 20)]
    assert sum(one == {Verdict.NO_DIFFERENCE} for one in same) >= 17


def test_studies_are_a_series_with_the_scatter_and_difference_they_are_given() -> None:
    """The difference of two students scatters by √2 times theirs: .028."""
    condition = Condition(9_824, 0.02, difference=0.05, seeds=40, methods=2)
    (gains,) = islice(draw_studies(condition), 1)
    (again, _) = islice(draw_studies(condition), 2)
    assert (gains == again).all()
    assert gains.shape == (2, 40, 9_824)
    assert gains.mean() == pytest.approx(0.05, abs=0.015)
    assert gains.mean(axis=2).std(axis=1) == pytest.approx(0.028, abs=0.01)


def test_the_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    verdicts.main(["--studies", "2", "--bootstraps", "1"])
    printed = capsys.readouterr().out
    assert printed.count("| 9,824 | 2 |") == 2
    assert "2 studies per cell, seed 16" in printed
