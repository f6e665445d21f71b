"""A results file of the ladder as a Markdown table and an SVG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qcrd.method.evaluation.statistics import Interval, t_interval
from qcrd.method.evaluation.verdicts import Decision, decide
from qcrd.records.reports.verdicts import format_seeds_needed

ResultLine = dict[str, Any]
BASELINE = "finetune_equal_compute"


def read_results(path: Path) -> list[ResultLine]:
    """Every finished run of the file; an incomplete line is skipped."""
    if not path.is_file():
        return []
    results = []
    for text in path.read_text().splitlines():
        try:
            results.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return results


def append_result(path: Path, line: ResultLine) -> None:
    """Append a line, starting a new one if the last is incomplete."""
    with path.open("a+b") as file:
        if file.tell() and path.read_bytes()[-1:] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")


def result_key(line: ResultLine) -> tuple[str, str, int]:
    return line["dataset"], line["method"], line["seed"]


def format_result(line: ResultLine) -> str:
    name = "{:12} {:24} {}".format(*result_key(line))
    if "failed" in line:
        return f"{name}  failed: {line['failed']}"
    return (
        f"{name}  test {line['test']:.3f} (majority class {line['majority_class']:.3f})  "
        f"validation {line['validation']:.3f}  {line['steps']} steps  "
        f"{line['flops'] / 1e12:.2f} TFLOP  {line['seconds']:.0f} + {line['test_seconds']:.0f} s"
    )


# --- the table ----------------------------------------------------------------------------------

COLUMNS = (
    "row",
    "seeds",
    "test accuracy: mean (95 % t interval)",
    "unseen stories",
    "label as written",
    "validation",
    "steps",
    "TFLOP",
    "s",
    "gain on finetuning: over seeds (95 % t interval)",
    "over test questions (95 % bootstrap)",
    "verdict (seeds needed)",
)


def render_markdown(results: Sequence[ResultLine]) -> str:
    """Per data set: each row's mean over seeds, and its paired gain over label finetuning.

    The t interval holds what another seed changes (training order, split, sampling), the
    bootstrap interval what other test questions would, with these trained students. The verdict is
    that of a study, on the rows of a data set.
    """
    return "\n\n".join(
        _render_section(dataset, runs) for dataset, runs in group_by(results, "dataset").items()
    )


def _render_section(dataset: str, runs: Sequence[ResultLine]) -> str:
    failed = [f"\n{format_result(line)}" for line in runs if "failed" in line]
    finished = [line for line in runs if "failed" not in line]
    if not finished:
        return "\n".join([f"### {dataset}", *failed])
    question_counts = finished[0]["questions"]
    rows = group_by(finished, "method")
    decisions = _decide_rows(rows)
    return "\n".join(
        [
            f"### {dataset}\n",
            f"Majority class {mean_of(finished, 'majority_class'):.3f}; "
            f"{question_counts['train']} training, {question_counts['validation']} validation and "
            f"{question_counts['test']} test questions per seed.\n",
            format_row(COLUMNS),
            format_row(["---"] * len(COLUMNS)),
            *(
                _render_row(method, own, rows.get(BASELINE, []), decisions.get(method))
                for method, own in rows.items()
            ),
            *failed,
        ]
    )


def _decide_rows(rows: Mapping[str, Sequence[ResultLine]]) -> dict[str, Decision]:
    means = {
        method: _mean_gains(compute_gains(runs, rows.get(BASELINE, [])))
        for method, runs in rows.items()
        if method != BASELINE
    }
    return dict(zip(means, decide(list(means.values())), strict=True))


def _mean_gains(seed_gains: Sequence[dict[str, int]]) -> list[float]:
    return [sum(gain.values()) / len(gain) for gain in seed_gains]


def _render_row(
    method: str,
    method_runs: Sequence[ResultLine],
    baseline: Sequence[ResultLine],
    decision: Decision | None,
) -> str:
    same_as = method_runs[0].get("same_as")
    seed_gains = compute_gains(method_runs, baseline) if method != BASELINE else []
    return format_row(
        [
            f"{method} (the same run as {same_as})" if same_as else method,
            str(len(method_runs)),
            _format_interval(t_interval([line["test"] for line in method_runs])),
            *(
                format_cell(mean_of(method_runs, name))
                for name in ("unseen", "label_as_written", "validation")
            ),
            format_cell(mean_of(method_runs, "steps"), ".1f"),
            format_cell((mean_of(method_runs, "flops") or 0) / 1e12, ".2f"),
            format_cell(mean_of(method_runs, "seconds"), ".0f"),
            _format_interval(t_interval(_mean_gains(seed_gains)), "+") if seed_gains else "",
            _format_interval(bootstrap_mean(seed_gains, seed=0), "+") if seed_gains else "",
            _format_decision(decision) if decision else "",
        ]
    )


def _format_decision(decision: Decision) -> str:
    needed = format_seeds_needed(decision.seeds_needed)
    return f"{decision.verdict} ({needed})" if needed else str(decision.verdict)


def compute_gains(
    method_runs: Sequence[ResultLine], baseline: Sequence[ResultLine]
) -> list[dict[str, int]]:
    """Per seed that both have: test question -> right (1) or wrong (0) less the baseline's."""
    others = {line["seed"]: _correct_by_question(line) for line in baseline}
    return [
        {
            name: right - others[line["seed"]][name]
            for name, right in _correct_by_question(line).items()
        }
        for line in method_runs
        if line["seed"] in others
    ]


def bootstrap_mean(
    seed_gains: Sequence[dict[str, int]], *, seed: int, draws: int = 10_000
) -> Interval:
    """Mean gain with its percentile interval over resampled test questions.

    A question comes with its answers of all seeds: they are not independent of each other.
    """
    names = sorted(seed_gains[0])
    per_question = np.array([[g[name] for name in names] for g in seed_gains]).mean(0)
    picks = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    low, high = np.quantile(per_question[picks].mean(1), [0.025, 0.975])
    return Interval(float(per_question.mean()), float(low), float(high))


def _correct_by_question(line: ResultLine) -> dict[str, int]:
    return {p["id"]: int(p["answer"] == p["gold"]) for p in line["predictions"]}


def mean_of(results: Sequence[ResultLine], name: str) -> float | None:
    values = [line[name] for line in results if line[name] is not None]
    return sum(values) / len(values) if values else None


def format_row(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def format_cell(value: float | None, shape: str = ".3f") -> str:
    return "" if value is None else f"{value:{shape}}"


def _format_interval(found: Interval, sign: str = "") -> str:
    if found.high == np.inf:
        return f"{found.value:{sign}.3f}"
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def group_by(results: Sequence[ResultLine], name: str) -> dict[str, list[ResultLine]]:
    """In the order of first appearance."""
    groups: dict[str, list[ResultLine]] = {}
    for line in results:
        groups.setdefault(line[name], []).append(line)
    return groups
