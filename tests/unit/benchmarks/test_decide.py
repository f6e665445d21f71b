"""Registered experiments: fixed before their runs, rehearsed whole, and judged by their rule."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.decide import PLANS, Plan, main, read_plan
from benchmarks.gpu.results import CANNOT, WHOLE
from benchmarks.registered.verdict import list_verdicts, render_page

REGISTERED = {
    "decide": "ad5e0e99fcfd7660a3a604177eaac3673b2e63306a67ffd5eb4c7aa33390e1bd",
    "decide-cpu": "27f24c0f31e1fc2d893f22b5373d06ccf36e1e4f3b1a8b0de8bc1ec934aaeb59",
    "decide-kinds": "7c7b87fadbac6c39734a5143eb903bc5d4d23048ce1f7fff21dabb106cf30cd2",
}
"""Of the files as they were before the first run. A plan that is wrong becomes a new file."""


@pytest.mark.parametrize("name", REGISTERED)
def test_a_registration_is_never_edited(name: str) -> None:
    found = hashlib.sha256((PLANS / f"{name}.toml").read_bytes()).hexdigest()
    assert found == REGISTERED[name]


def test_every_registration_is_held() -> None:
    assert {path.stem for path in PLANS.glob("*.toml")} == set(REGISTERED)


@pytest.mark.parametrize("name", REGISTERED)
def test_every_row_is_a_spec_and_differs_from_the_others(name: str) -> None:
    registered = read_plan(name)
    plan = Plan(registered, Path(), Path(), "cpu")
    order, rows = registered["order"], registered["rows"]
    assert [*order["first"], *order["then"]] == list(rows)
    made = {row: plan.make_spec(row) for row in rows}
    assert len({f"{method} {spec.model_dump_json()}" for method, spec in made.values()}) == len(
        rows
    )
    lag = registered["settings"]["negatives"]["lag"]
    assert all(spec.negatives.lag == lag for _, spec in made.values())
    pairs = [pair for pair in registered["rule"].values() if isinstance(pair, list) and pair]
    assert all(row in rows for pair in pairs for row in pair)


def test_whole_seeds_of_the_first_rows_come_first() -> None:
    plan = Plan(read_plan("decide"), Path(), Path(), "cpu")
    keys = plan.keys
    assert [row for _, row, seed in keys[:6]] == plan.registered["order"]["first"]
    assert {seed for _, _, seed in keys[:6]} == {0}
    assert len(keys) == 54
    assert {row for _, row, _ in keys[36:]} == {"R1", "R2", "R3"}


def test_the_rehearsal_makes_every_run_and_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a tiny student, in processes of their own; a second call finds everything done."""
    arguments = ["--plan", "decide", "--rehearse", "--out", str(tmp_path)]
    assert main(arguments) == WHOLE
    path = tmp_path / "rehearsed" / "decide.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 9
    assert not [line for line in lines if "failed" in line]
    negatives = {line["method"]: line["negatives"] for line in lines}
    assert negatives["R0"] == negatives["rejection"] == 0
    assert negatives["R1"] > 0
    said = capsys.readouterr().out
    assert "negatives matter (R4 - R0): cannot tell, fewer than 5 seeds" in said
    assert main(arguments) == WHOLE
    assert "9 runs are there, 0 to go" in capsys.readouterr().out


def test_without_data_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--plan", "decide"]) == CANNOT
    assert "--data is missing" in capsys.readouterr().out
    assert main(["--plan", "nothing"]) == CANNOT
    assert "decide, decide-cpu" in capsys.readouterr().out


# --- the rule -------------------------------------------------------------------------------------


def lines(row: str, accuracies: list[float], in_force: float | None = None) -> list[dict[str, Any]]:
    return [
        {
            "dataset": "cqa", "method": row, "seed": seed, "test": accuracy, "steps": 368,
            "tokens": 1e6, "flops": 1e15, "seconds": 9.0, "negatives": 10.0,
            "in_force_share": in_force,
        }
        for seed, accuracy in enumerate(accuracies)
    ]  # fmt: skip


def verdicts(*given: list[dict[str, Any]]) -> list[str]:
    by_row: dict[str, dict[int, Any]] = {}
    for line in (line for own in given for line in own):
        by_row.setdefault(line["method"], {})[line["seed"]] = line
    return list_verdicts(read_plan("decide"), by_row)


BASE = [0.50, 0.51, 0.49, 0.50, 0.52, 0.48]


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ([0.03, 0.028, 0.032, 0.03, 0.029, 0.031], "yes, +3.00 points"),
        ([0.012, 0.011, 0.013, 0.012, 0.012, 0.012], "not shown, +1.20"),  # below the margin
        ([0.09, -0.03, 0.08, -0.02, 0.07, 0.0], "not shown"),  # the interval holds zero
        ([0.03, 0.028, 0.032, 0.03], "cannot tell, fewer than 5 seeds"),
    ],
)
def test_negatives_matter_by_margin_and_interval(gains: list[float], verdict: str) -> None:
    better = [base + gain for base, gain in zip(BASE, gains, strict=False)]
    said, *_ = verdicts(lines("R0", BASE), lines("R4", better))
    assert said.startswith(f"negatives matter (R4 - R0): {verdict}")


@pytest.mark.parametrize(("in_force", "holds"), [(0.02, "yes"), (0.2, "not shown")])
def test_a_temperature_is_inert_where_nothing_was_in_force_and_nothing_differs(
    in_force: float, holds: str
) -> None:
    same = [
        base + d for base, d in zip(BASE, (0.001, -0.001, 0.002, 0, -0.002, 0.001), strict=True)
    ]
    *_, said = verdicts(lines("R0", BASE), lines("R1", same, in_force))
    assert f"points): {holds}, " in said
    assert f"{in_force:.1%} of its negatives in force" in said


def test_the_page_has_every_row_and_says_what_was_not_run() -> None:
    results = [*lines("R0", BASE), *lines("R4", BASE, 0.9)]
    results.append({"dataset": "cqa", "method": "R5", "seed": 0, "failed": "out of memory"})
    page = render_page(read_plan("decide"), results)
    assert "| R1 | not run |" in page
    assert "| R4 | 6 | 0.500 (" in page
    assert "failed: R5 seed 0: out of memory" in page


def test_rows_that_are_the_same_under_every_seed_are_equivalent_and_show_nothing() -> None:
    """As R4 and R0 were in decide-cpu, answer by answer: there is no scatter to test by."""
    registered = read_plan("decide")
    by_row = {
        row: {seed: {"test": 0.2 + seed / 100, "in_force_share": 0.0} for seed in range(6)}
        for row in registered["rows"]
    }
    matter, judge, inert = list_verdicts(registered, by_row)
    assert "not shown, +0.00 points" in matter
    assert "not shown, +0.00 points" in judge
    assert "yes, +0.00 points [+0.00, +0.00], equivalence p = 0" in inert
