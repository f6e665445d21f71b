"""A results file of the ladder as a Markdown table and an SVG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qcrd.method.evaluation.statistics import Interval, t_interval

Line = dict[str, Any]
BASELINE = "finetune_equal_compute"


def lines(path: Path) -> list[Line]:
    """Every finished run of the file; a line that a crash cut short is left out."""
    if not path.is_file():
        return []
    found = []
    for text in path.read_text().splitlines():
        try:
            found.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return found


def append(path: Path, line: Line) -> None:
    """As a line of its own, whatever a crash left at the end of the file."""
    with path.open("a+b") as file:
        if file.tell() and path.read_bytes()[-1:] != b"\n":
            file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")


def key(line: Line) -> tuple[str, str, int]:
    return line["dataset"], line["method"], line["seed"]


def said(line: Line) -> str:
    name = "{:12} {:24} {}".format(*key(line))
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
)


def markdown(found: Sequence[Line]) -> str:
    """Per data set: each row's mean over seeds, and its paired gain on label finetuning.

    The t interval holds what another seed changes (training order, split, sampling), the
    bootstrap interval what other test questions would, with these trained students.
    """
    return "\n\n".join(_section(dataset, runs) for dataset, runs in by(found, "dataset").items())


def _section(dataset: str, runs: Sequence[Line]) -> str:
    failed = [f"\n{said(line)}" for line in runs if "failed" in line]
    ended = [line for line in runs if "failed" not in line]
    if not ended:
        return "\n".join([f"### {dataset}", *failed])
    asked = ended[0]["questions"]
    rows = by(ended, "method")
    return "\n".join(
        [
            f"### {dataset}\n",
            f"Majority class {mean(ended, 'majority_class'):.3f}; {asked['train']} training, "
            f"{asked['validation']} validation and {asked['test']} test questions per seed.\n",
            cells(COLUMNS),
            cells(["---"] * len(COLUMNS)),
            *(_row(method, own, rows.get(BASELINE, [])) for method, own in rows.items()),
            *failed,
        ]
    )


def _row(method: str, own: Sequence[Line], baseline: Sequence[Line]) -> str:
    twin = own[0].get("same_as")
    gained = gains(own, baseline) if method != BASELINE else []
    means = [sum(gain.values()) / len(gain) for gain in gained]
    return cells(
        [
            f"{method} (the same run as {twin})" if twin else method,
            str(len(own)),
            _interval(t_interval([line["test"] for line in own])),
            *(cell(mean(own, name)) for name in ("unseen", "label_as_written", "validation")),
            cell(mean(own, "steps"), ".1f"),
            cell((mean(own, "flops") or 0) / 1e12, ".2f"),
            cell(mean(own, "seconds"), ".0f"),
            _interval(t_interval(means), "+") if gained else "",
            _interval(clustered(gained, seed=0), "+") if gained else "",
        ]
    )


def gains(own: Sequence[Line], baseline: Sequence[Line]) -> list[dict[str, int]]:
    """Per seed that both have: test question -> right (1) or wrong (0) less the baseline's."""
    others = {line["seed"]: _right(line) for line in baseline}
    return [
        {name: right - others[line["seed"]][name] for name, right in _right(line).items()}
        for line in own
        if line["seed"] in others
    ]


def clustered(gained: Sequence[dict[str, int]], *, seed: int, draws: int = 10_000) -> Interval:
    """Mean gain with its percentile interval over resampled test questions.

    A question comes with its answers of all seeds: they are not independent of each other.
    """
    names = sorted(gained[0])
    per_question = np.array([[g[name] for name in names] for g in gained]).mean(0)
    picks = np.random.default_rng(seed).integers(0, len(names), (draws, len(names)))
    low, high = np.quantile(per_question[picks].mean(1), [0.025, 0.975])
    return Interval(float(per_question.mean()), float(low), float(high))


def _right(line: Line) -> dict[str, int]:
    return {p["id"]: int(p["answer"] == p["gold"]) for p in line["predictions"]}


def mean(found: Sequence[Line], name: str) -> float | None:
    values = [line[name] for line in found if line[name] is not None]
    return sum(values) / len(values) if values else None


def cells(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def cell(value: float | None, shape: str = ".3f") -> str:
    return "" if value is None else f"{value:{shape}}"


def _interval(found: Interval, sign: str = "") -> str:
    if found.high == np.inf:
        return f"{found.value:{sign}.3f}"
    return f"{found.value:{sign}.3f} ({found.low:{sign}.3f} to {found.high:{sign}.3f})"


def by(found: Sequence[Line], name: str) -> dict[str, list[Line]]:
    """In the order of first appearance."""
    groups: dict[str, list[Line]] = {}
    for line in found:
        groups.setdefault(line[name], []).append(line)
    return groups
