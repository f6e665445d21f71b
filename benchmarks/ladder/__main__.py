"""The ablation ladder on published data, every row at equal compute.

    python -m benchmarks.ladder --data DIR --models DIR --out results.jsonl
        [--datasets …] [--methods …] [--seeds …] [--flops …] [--student …]
    python -m benchmarks.ladder --table results.jsonl [--plot ladder.svg]
    python -m benchmarks.ladder --why results.jsonl
    python -m benchmarks.ladder --temperatures 16 --data DIR --models DIR --datasets svamp

A run is one student of one row on one data set with one seed. It trains until the floating-point
work `--flops` is spent, sampling and the judge included, keeps its best iteration on validation and
is evaluated once on the test questions. Its line is appended as soon as it ends, and runs in the
file are not repeated, so a stopped ladder can be continued. Seeds are the outer loop, so that the
table of a stopped ladder is balanced.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import transformers

from benchmarks.ladder import diagnostics, plot, table
from benchmarks.ladder.data import DATASETS
from benchmarks.ladder.run import Conditions, run_condition
from qcrd.errors import Invalid, QcrdError

METHODS = (
    "finetune_equal_compute",
    "dss",
    "dss+positives",
    "dss+positives+negatives",
    "qcrd",
)


def run_ladder(
    options: argparse.Namespace,
    conditions: Conditions,
    *,
    run: Callable[..., dict[str, Any]] = run_condition,
) -> None:
    finished = {table.result_key(line) for line in table.read_results(options.out)}
    for seed, dataset, method in product(options.seeds, options.datasets, options.methods):
        if (dataset, method, seed) in finished:
            continue
        try:
            line = _find_identical_run(options.out, dataset, method, seed) or run(
                options.data, options.models, dataset, method, seed, conditions
            )
        except QcrdError as error:  # a diverged run is a result, too
            line = {"dataset": dataset, "method": method, "seed": seed, "failed": str(error)}
        table.append_result(options.out, line)
        print(table.format_result(line), flush=True)


def _find_identical_run(out: Path, dataset: str, method: str, seed: int) -> dict[str, Any] | None:
    """The run of `dss` if `dss+positives` is identical to it, as no question has two
    positives to choose from."""
    if method != "dss+positives":
        return None
    for line in table.read_results(out):
        is_same_run = table.result_key(line) == (dataset, "dss", seed) and "failed" not in line
        if is_same_run and line["import"]["outputs"] == line["import"]["questions"]:
            return {**line, "method": method, "same_as": "dss"}
    return None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="print a results file as Markdown, run nothing")
    parser.add_argument("--plot", type=Path, help="with --table: the SVG to write")
    parser.add_argument("--why", type=Path, help="print what the runs recorded besides accuracy")
    parser.add_argument("--temperatures", type=int, help="so many questions: what they sample")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--out", type=Path, default=Path("ladder.jsonl"))
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--student", default="smollm2-8")
    parser.add_argument("--flops", type=float, default=6e12)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--iteration-steps", type=int, default=10)
    parser.add_argument("--warmup-steps", type=int, default=3)
    parser.add_argument("--train", type=int, help="most training questions; default all")
    parser.add_argument("--validate", type=int, help="most validation questions; default all")
    parser.add_argument("--test", type=int, help="most test questions; default all")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--device", default="cpu", help="`cuda`: the GPU")
    parser.add_argument("--lag", type=int, default=1)
    parser.add_argument("--judge-pretrain-steps", type=int, default=10)
    parser.add_argument("--judge-update-steps", type=int, default=2)
    parser.add_argument("--judge-batch-size", type=int, default=8)
    parser.add_argument("--judge-tokens", type=int, default=128)
    parser.add_argument("--rationale-tokens", type=int, help="at most; default the data set's")
    return parser.parse_args()


def main() -> None:
    options = parse_arguments()
    if options.table:
        results = table.read_results(options.table)
        print(table.render_markdown(results))
        if options.plot:
            options.plot.write_text(plot.render_svg(results))
        return
    if options.why:
        print(diagnostics.render_markdown(table.read_results(options.why)))
        return
    if options.data is None:
        raise Invalid("--data is missing: the folder that holds the data sets", param="data")
    transformers.utils.logging.disable_progress_bar()
    condition_values = {field.name: getattr(options, field.name) for field in fields(Conditions)}
    conditions = Conditions(**condition_values)
    if options.temperatures:
        for dataset in options.datasets:
            for line in diagnostics.sample_temperatures(
                options.data, options.models, dataset, conditions, questions=options.temperatures
            ):
                print(line, flush=True)
        return
    run_ladder(options, conditions)


if __name__ == "__main__":
    main()
