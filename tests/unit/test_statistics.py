"""Intervals and paired tests by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.method.statistics import leaked, mcnemar, over_seeds, paired_bootstrap, wilson
from tests.conftest import data_folder


def test_wilson_by_hand() -> None:
    """8 of 10, z 1.96: centre (.8 + z2/20) / (1 + z2/10), half z sqrt(.016 + z2/400) / (...)."""
    z = 1.959964
    scale = 1 + z * z / 10
    centre = (0.8 + z * z / 20) / scale
    half = z * math.sqrt(0.8 * 0.2 / 10 + z * z / 400) / scale
    found = wilson(8, 10)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)
    assert (found.accuracy, found.n) == (0.8, 10)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_accuracy(case: tuple[int, int]) -> None:
    found = wilson(*case)
    assert 0 <= found.low <= found.accuracy + 1e-12
    assert found.accuracy - 1e-12 <= found.high <= 1


def test_mean_over_seeds_by_hand() -> None:
    """.6 .7 .8: mean .7, standard error .1 / sqrt 3, t(2) 4.302653."""
    found = over_seeds([0.6, 0.7, 0.8])
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7 - half, 0.7 + half))
    assert over_seeds([0.5]).high == math.inf


def test_mcnemar_by_hand() -> None:
    """Differing on 6 items, 1 against 5: 2 * (C(6,0) + C(6,1)) / 64 = 14 / 64."""
    first = [True] + [False] * 5 + [True] * 10
    second = [False] + [True] * 5 + [True] * 10
    assert mcnemar(first, second) == pytest.approx(14 / 64)
    assert mcnemar(first, first) == 1.0


def test_paired_bootstrap_is_seeded_and_holds_the_difference() -> None:
    first, second = [True, False] * 50, [True, True] * 50
    found = paired_bootstrap(first, second, seed=1)
    assert found.value == 0.5
    assert 0.38 < found.low < 0.5 < found.high < 0.62
    assert found == paired_bootstrap(first, second, seed=1)


def test_leaks_look_through_numbers_case_and_spacing() -> None:
    training = ["Ann has 3 apples.", "Bob had 1,200 nuts."]
    test = ["ann  has 17 apples.", "Bob had 5 nuts.", "Ann has three apples."]
    assert leaked(training, test) == [True, True, False]


def test_what_is_asked_about_a_story_does_not_hide_it() -> None:
    training = ["Ann has 3 apples and eats 1\nHow many are left?"]
    test = ["Ann has 9 apples and eats 4\nHow many did she eat?", "How many are left?"]
    assert leaked(training, test) == [True, False]


def test_svamp_repeats_as_many_stories_as_is_known() -> None:
    folder = data_folder("svamp")
    questions = [
        [json.loads(line)["question"] for line in (folder / name).read_text().splitlines()]
        for name in ("train.jsonl", "test.jsonl")
    ]
    assert sum(leaked(*questions)) == 105
