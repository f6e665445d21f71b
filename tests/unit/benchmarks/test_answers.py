"""Benchmarks of how students answer: their tables, and the specs that they run."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import demo_seeds, doubt, reasoning
from qcrd.records.specs.spec import JobSpec


def line(row: str, seed: int, right: list[bool]) -> dict[str, Any]:
    return {
        "dataset": "last_letter", "method": row, "seed": seed, "steps": 40, "flops": 2e13,
        "seconds": 9.0, "test_seconds": 2.0, "answer_tokens": 20.0, "majority_class": 0.1,
        "questions": {"train": 315, "test": len(right)},
        "test": sum(right) / len(right), "predictions": [{"right": is_right} for is_right in right],
    }  # fmt: skip


def test_rows_are_paired_by_seed_and_what_was_not_run_says_so() -> None:
    """Three of four questions against one, under both seeds: 50 points."""
    lines = [
        line(row, seed, [row == "reasoned", row == "reasoned", True, False])
        for row in ("reasoned", "label")
        for seed in (0, 1)
    ]
    told = reasoning.render_markdown(lines)
    assert "`reasoned` less `label`: +50.0 points" in told
    assert "over 2 seeds and 4 questions" in told
    assert "| reasoned | 2 | 0.750, 0.750 | 0.750 |" in told
    assert told.count("| finetune | not run |") == 3
    assert "### tracking" in told


def test_the_reasoned_row_goes_first() -> None:
    with pytest.raises(SystemExit):
        reasoning.parse_arguments(["--data", "x", "--rows", "label"])


def test_every_variant_of_the_demo_is_a_job_of_its_seed() -> None:
    whole = demo_seeds.make_spec(2, {})
    one = demo_seeds.make_spec(2, demo_seeds.ONE_SAMPLE)
    greedy = demo_seeds.make_spec(0, demo_seeds.TEACHERS["greedy"], method="finetune")
    specs = [JobSpec.model_validate(spec) for spec in (whole, one, greedy)]
    assert [spec.seed for spec in specs] == [2, 2, 0]
    assert [spec.settings.rationales.n for spec in specs] == [5, 1, 1]
    assert specs[2].settings.rationales.temperature == 0
    assert specs[2].settings.student.answers == "label"
    assert specs[0].settings.task == specs[2].settings.task


def test_sums_are_the_same_each_time_and_an_auroc_has_an_interval() -> None:
    assert doubt.make_sums(5) == doubt.make_sums(9)[:5]
    assert doubt.measure_auroc([0.9, 0.8], [0.1, 0.2]).startswith("1.000 [1.000, 1.000]")
    assert "empty" in doubt.measure_auroc([], [0.1])
