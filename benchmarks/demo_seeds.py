"""The demo's student in several seeds, and what stands beside it.

    qcrd up --detach; python -m benchmarks.demo_seeds [--seeds 0 1 2] [--out DIR]

Per seed `examples/demo.yaml` and the same student on one unfiltered sample per question, without a
vote. The teacher is asked once: its samples are kept, and are the same for every seed. Beside them,
of the teacher alone on the test questions, its greedy answer and the vote of five; for these a
student that learns the labels alone is trained, which is not shown. Reports stay in --out, and what
is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from qcrd.records.reports.accuracy import Comparison

DEMO = Path("examples/demo.yaml")
ONE_SAMPLE = {"n": 1}
TEACHERS = {
    "greedy": {"n": 1, "temperature": 0, "top_p": None},
    "vote of five": {"test_samples": 5},
}
Row = list[str]
COLUMNS = ["", "seed", "accuracy", "points above one sample of the teacher"]
COLUMNS += ["right alone : teacher alone, McNemar"]
COLUMNS += ["right behind its own / no / another's rationale", "s"]


def make_spec(seed: int, rationales: dict[str, Any], *, method: str | None = None) -> Any:
    spec = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    kind = spec["method"]["type"]
    body = spec["method"][kind]
    body["rationales"] = {
        name: value
        for name, value in (body["rationales"] | rationales).items()
        if value is not None
    }
    if method is not None:
        body.pop("loss")
        body["student"].pop("answers")
    spec["method"] = {"type": method or kind, method or kind: body}
    return {**spec, "seed": seed}


def run(name: str, spec: Any, out: Path) -> dict[str, Any]:
    report = out / f"{name}.json"
    if not report.exists():
        path = out / f"{name}.yaml"
        path.write_text(yaml.safe_dump(spec), encoding="utf-8")
        command = [sys.executable, "-m", "qcrd.cli", "run", str(path)]
        command += ["--data", str(DEMO.parent), "--report", str(report)]
        print(f"== {name}", flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    return found


def format_accuracy(row: dict[str, Any]) -> str:
    return f"{row['accuracy']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def format_student(name: str, seed: int, report: dict[str, Any]) -> Row:
    (row,) = (r for key, r in report["test"].items() if key not in ("teacher", "majority_class"))
    against = Comparison.model_validate(report["against_teacher"])
    low, high = 100 * against.low, 100 * against.high
    swap = (report.get("answering") or {}).get("swap") or {}
    behind = " / ".join(
        str(swap.get(f"right_{name}", "")) for name in ("with_own", "without", "with_other")
    )
    return [
        name,
        str(seed),
        format_accuracy(row),
        f"{100 * against.difference:+.1f} [{low:+.1f}, {high:+.1f}]",
        f"{against.only_method} : {against.only_baseline}, p {against.p:.2g}",
        f"{behind} of {swap.get('n', '')}",
        f"{sum(report['seconds'].values()):.0f}",
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="The demo in several seeds.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("demo-seeds"))
    options = parser.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in options.seeds:
        report = run(f"demo-{seed}", make_spec(seed, {}), options.out)
        if not rows:
            teacher = format_accuracy(report["test"]["teacher"])
            rows.append(["teacher, one sample", "", teacher, "", "", "", ""])
        rows.append(format_student("student", seed, report))
    for seed in options.seeds:
        report = run(f"one-sample-{seed}", make_spec(seed, ONE_SAMPLE), options.out)
        rows.append(format_student("student of one unfiltered sample", seed, report))
    for name, rationales in TEACHERS.items():
        spec = make_spec(0, rationales, method="finetune")
        report = run(name.replace(" ", "-"), spec, options.out)
        accuracy = format_accuracy(report["test"]["teacher"])
        rows.append([f"teacher, {name}", "", accuracy, "", "", "", ""])
    for row in (COLUMNS, ["---"] * len(COLUMNS), *rows):
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
