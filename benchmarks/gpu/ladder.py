"""Ladder: the paper's rows on published data, several runs at a time on one GPU.

Runs are started seed by seed, so that a stopped ladder has whole seeds, and saved as each ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks import run_pool
from benchmarks.gpu import models
from benchmarks.gpu.results import FAILED, UNFINISHED, WHOLE, Clock
from benchmarks.ladder import table
from benchmarks.ladder.run import Conditions, run_condition
from benchmarks.run_pool import Key
from qcrd.errors import QcrdError

SECONDS = 480.0
DATASETS = ("svamp_gpt35", "tracking", "last_letter")
METHODS = ("finetune_equal_compute", "dss", "dss+positives", "dss+positives+negatives", "qcrd")
FILE = "ladder.jsonl"
MAX_LOSSES = 200
"""Steps whose losses a line keeps, evenly spread: there are thousands."""


@dataclass(frozen=True)
class LadderPlan:
    """Which runs to make, from which folders, `processes` at a time."""

    data: Path
    models: Path
    conditions: Conditions
    seeds: Sequence[int]
    processes: int
    datasets: Sequence[str] = DATASETS
    methods: Sequence[str] = METHODS

    @property
    def runs(self) -> list[Key]:
        return [(d, m, seed) for seed, d, m in product(self.seeds, self.datasets, self.methods)]


def make_conditions(device: str, *, student: str, flops: float) -> Conditions:
    """A run of thousands of label steps of a student of .135 B parameters: a QCRD step of 16
    questions is about 6e12 operations, one of label finetuning a sixth of that."""
    return Conditions(
        student=student, flops=flops, learning_rate=3e-4, batch_size=16, iteration_steps=50,
        warmup_steps=20, train=None, validate=100, test=None, precision="bf16", lag=1,
        judge_pretrain_steps=100, judge_update_steps=8, judge_batch_size=16, judge_tokens=256,
        rationale_tokens=None, device=device,
    )  # fmt: skip


def run(plan: LadderPlan, folders: Sequence[Path], clock: Clock) -> int:
    """Make the runs that are not in the results yet until the time is up; the exit code."""
    results, failed = run_pool.run_all(
        plan.runs,
        partial(run_one, plan),
        [folder / FILE for folder in folders],
        processes=plan.processes,
        clock=clock,
    )
    seeds = run_pool.find_whole_seeds(plan.runs, results)
    print(f"{len(seeds)} of {len(plan.seeds)} seeds are whole: {', '.join(map(str, seeds)) or '-'}")
    if failed:
        return FAILED
    done = {table.result_key(line) for line in results if "failed" not in line}
    return WHOLE if all(key in done for key in plan.runs) else UNFINISHED


def run_one(plan: LadderPlan, key: Key) -> dict[str, Any]:
    """The line of one run, in a process of the pool. Any error is a line, too: one that ran out of
    memory beside others says nothing of them."""
    import torch

    torch.set_num_threads(1)
    dataset, method, seed = key
    try:
        line = run_condition(plan.data, plan.models, dataset, method, seed, plan.conditions)
    except (QcrdError, RuntimeError, OSError, ValueError) as error:
        failed = f"{type(error).__name__}: {str(error)[:300]}"
        return {"dataset": dataset, "method": method, "seed": seed, "failed": failed}
    stride = -(-len(line["loss"]) // MAX_LOSSES)
    return {**line, "loss": line["loss"][::stride], "loss_stride": stride}


# --- rehearsal ---------------------------------------------------------------------------------


def make_rehearsal(folder: Path, device: str) -> LadderPlan:
    """Questions that were made up, a tiny student and a tiny judge, in `folder`."""
    for dataset in DATASETS:
        _write_questions(folder / "data" / dataset)
    models.save_base(folder / "models" / "smollm2-1", "llama")
    models.save_base(folder / "models" / "all-MiniLM-L6-v2", "bert")
    conditions = Conditions(
        student="smollm2-1", flops=2e9, learning_rate=1e-3, batch_size=4, iteration_steps=2,
        warmup_steps=0, train=6, validate=2, test=2, precision="fp32", lag=1,
        judge_pretrain_steps=1, judge_update_steps=1, judge_batch_size=2, judge_tokens=64,
        rationale_tokens=8, device=device,
    )  # fmt: skip
    methods = ("finetune_equal_compute", "qcrd")
    return LadderPlan(folder / "data", folder / "models", conditions, (0,), 2, methods=methods)


def _write_questions(folder: Path) -> None:
    folder.mkdir(parents=True)
    is_number = folder.name == "svamp_gpt35"
    is_option = folder.name == "tracking"
    for name, numbers in (("train", range(20)), ("test", range(90, 93))):
        rows = []
        for n in numbers:
            label = f"( 2.0 * {n}.0 )" if is_number else "A" if is_option else "ab"
            question = f"A box holds {n} pens.\nHow many do two boxes hold?"
            if is_option:
                question += "\nOptions:\n(A) red\n(B) blue\n(C) seven"
            ending = " So the answer is (A)." if is_option else ""
            said = [f"so it is{ending}", f"more{ending}"]
            rows.append({"question": question, "label": label, "rationales": said})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
