"""Ladder: the paper's rows on published data, several runs at a time on one GPU.

Runs are started seed by seed, so that a stopped ladder has whole seeds, and saved as each ends.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.gpu import models
from benchmarks.gpu.results import FAILED, UNFINISHED, WHOLE, Clock
from benchmarks.ladder import table
from benchmarks.ladder.run import Conditions, run_condition
from qcrd.errors import QcrdError

SECONDS = 480.0
DATASETS = ("svamp_gpt35", "tracking", "last_letter")
METHODS = ("finetune_equal_compute", "dss", "dss+positives", "dss+positives+negatives", "qcrd")
FILE = "ladder.jsonl"
MAX_LOSSES = 200
"""Steps whose losses a line keeps, evenly spread: there are thousands."""
POLL_SECONDS = 0.2

Key = tuple[str, str, int]
"""Data set, method and seed of a run."""


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
    """Make the runs that are not in the results yet until the time is up; the exit code.

    A run is begun only where the longest of its kind so far would end in time.
    """
    results = _read_all(folders)
    _write_all(folders, results)
    done = {table.result_key(line) for line in results if "failed" not in line}
    pending = [key for key in plan.runs if key not in done]
    print(f"{len(done)} runs are there, {len(pending)} to go, {plan.processes} at a time")
    failed = 0
    with multiprocessing.get_context("spawn").Pool(plan.processes) as pool:
        running: dict[Key, tuple[float, Any]] = {}
        longest = 0.0
        while (pending and clock.left > longest) or running:
            while pending and len(running) < plan.processes and clock.left > longest:
                key = pending.pop(0)
                running[key] = (time.monotonic(), pool.apply_async(run_one, (plan, key)))
            for key in [key for key, (_, result) in running.items() if result.ready()]:
                started, result = running.pop(key)
                line = result.get()
                longest = max(longest, time.monotonic() - started)
                failed += "failed" in line
                for folder in folders:
                    table.append_result(folder / FILE, line)
                print(table.format_result(line), flush=True)
            if clock.left <= 0:
                break
            time.sleep(POLL_SECONDS)
        if not running:
            pool.close()
            pool.join()
        # Else leaving the pool ends what still runs, of which nothing is kept.
    return _report(plan, folders, failed)


def _report(plan: LadderPlan, folders: Sequence[Path], failed: int) -> int:
    results = _read_all(folders)
    done = {table.result_key(line) for line in results if "failed" not in line}
    seeds = find_whole_seeds(plan, results)
    print(f"{len(seeds)} of {len(plan.seeds)} seeds are whole: {', '.join(map(str, seeds)) or '-'}")
    if failed:
        return FAILED
    return WHOLE if all(key in done for key in plan.runs) else UNFINISHED


def find_whole_seeds(plan: LadderPlan, results: Sequence[dict[str, Any]]) -> list[int]:
    """Seeds of which every row of every data set is there."""
    done = {table.result_key(line) for line in results if "failed" not in line}
    return [s for s in plan.seeds if all(key in done for key in plan.runs if key[2] == s)]


def _read_all(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """The last line of each run in any of the folders."""
    lines = [line for folder in folders for line in table.read_results(folder / FILE)]
    return list({table.result_key(line): line for line in lines}.values())


def _write_all(folders: Sequence[Path], results: Sequence[dict[str, Any]]) -> None:
    """All folders have the same runs from then on."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f".{FILE}"
        unfinished.write_text("".join(json.dumps(line) + "\n" for line in results))
        os.replace(unfinished, folder / FILE)


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
            rows.append({"question": question, "label": label, "rationales": ["so it is", "more"]})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
