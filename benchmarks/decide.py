"""The registered experiments: whether negatives and judge do anything, by rules written beforehand.

    python -m benchmarks.decide --data DIR [--plan decide|decide-cpu] [--out DIR] [--device cuda]
        [--limit SECONDS] [--processes N]
    python -m benchmarks.decide --page [--plan …] [--out DIR]    the verdicts and the table
    python -m benchmarks.decide --rehearse                       with tiny models, in two minutes

`benchmarks/registered/PLAN.toml` is the registration and what is run. Runs are saved as they end,
whole seeds first, and are not repeated; a call that ends early says which seeds are whole. Exit
codes are those of `benchmarks.gpu`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks import run_pool
from benchmarks.gpu import models as gpu_models
from benchmarks.gpu.results import CANNOT, FAILED, UNFINISHED, WHOLE, Clock
from benchmarks.ladder import data as ladder_data
from benchmarks.ladder import students, table
from benchmarks.ladder.data import DATASETS
from benchmarks.ladder.run import describe_machine, load_judge
from benchmarks.registered.verdict import render_page
from benchmarks.run_pool import Key, Line
from qcrd.errors import NotFound, QcrdError
from qcrd.method.evaluation import predict
from qcrd.method.judge.model import LocalJudge
from qcrd.method.student.loading import load_student
from qcrd.method.training.progress import IterationFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.records.specs.spec import MethodSpec
from services.trainer.results import measuring

PLANS = Path(__file__).parent / "registered"
DEFAULT_OUT = Path("decide-results")


@dataclass(frozen=True)
class Plan:
    """A registration, and where its data and models are. `rehearsed`: with tiny models."""

    registered: dict[str, Any]
    data: Path
    models: Path
    device: str
    rehearsed: bool = False

    @property
    def keys(self) -> list[Key]:
        """Whole seeds of the first rows, then whole seeds of the others."""
        order, dataset = self.registered["order"], self.registered["data"]["dataset"]
        return [
            (dataset, row, seed)
            for rows in (order["first"], order["then"])
            for seed in order["seeds"]
            for row in rows
        ]

    def make_spec(self, row: str) -> tuple[str, MethodSpec]:
        """The row's method, and its settings over those of all rows."""
        settings = dict(self.registered["settings"])
        for name, value in self.registered["rows"][row].items():
            settings[name] = {**settings[name], **value} if isinstance(value, dict) else value
        method = settings.pop("method")
        task = DATASETS[self.registered["data"]["dataset"]].task
        return method, MethodSpec.model_validate(settings).model_copy(update={"task": task})


def read_plan(name: str) -> dict[str, Any]:
    path = PLANS / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in PLANS.glob("*.toml")))
        raise NotFound(f"--plan: no experiment {name!r} is registered; there are {known}")
    return tomllib.loads(path.read_text(encoding="utf-8"))


def run_row(plan: Plan, key: Key) -> Line:
    """The line of one run, in a process of the pool. Any error is a line, too."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    dataset, row, seed = key
    try:
        return _run_row(plan, row, seed)
    except (QcrdError, RuntimeError, OSError, ValueError) as error:
        failed = f"{type(error).__name__}: {str(error)[:300]}"
        return {"dataset": dataset, "method": row, "seed": seed, "failed": failed}


def _run_row(plan: Plan, row: str, seed: int) -> Line:
    method, spec = plan.make_spec(row)
    sizes, dataset = plan.registered["data"], plan.registered["data"]["dataset"]
    loaded = ladder_data.load_data(
        plan.data / dataset, DATASETS[dataset], spec,
        seed=seed, train=sizes["train"], validate=sizes["validate"], test=sizes["test"],
    )  # fmt: skip
    schedule = make_schedule(method, spec, n_examples=len(loaded.lessons), seed=seed)
    base = students.get_checkpoint(plan.registered["student"]["base"], plan.models)
    student = load_student(base, spec.student, spec.hyperparameters, seed=seed, device=plan.device)
    judge = None
    if schedule.objective.uses_judge and spec.discriminator.control in ("none", "shuffled"):
        model = load_judge(plan.models, spec.discriminator, seed).to(plan.device)
        judge = LocalJudge(model, spec.discriminator, seed=seed)
    trainer = Trainer(
        student,
        loaded.lessons,
        schedule,
        lambda tested: measuring.compute_validation_score(tested, loaded.validation, schedule),
        judge,
    )
    started = time.monotonic()
    ends = [record for record in trainer.run() if isinstance(record, IterationFinished)]
    trained, flops, tokens = time.monotonic() - started, trainer.flops, trainer.student.tokens
    best = trainer.best
    student = trainer.restore_best()
    predictions = measuring.predict_labeled(student, loaded.test, schedule, lambda: None)
    shares = [
        end.negative_metrics["in_force_share"]
        for end in ends
        if "in_force_share" in end.negative_metrics
    ]
    golds = [lesson.gold for lesson in loaded.lessons]
    return {
        "dataset": dataset,
        "method": row,
        "seed": seed,
        "test": predict.accuracy(predictions).accuracy,
        "majority_class": predict.majority_class_accuracy(golds, loaded.test.golds).accuracy,
        "validation": None if best is None else best.score[0],
        "best_iteration": 0 if best is None else best.iteration,
        "in_force_share": sum(shares) / len(shares) if shares else None,
        "negatives": sum(end.negative_metrics.get("negatives", 0.0) for end in ends),
        "judge_auc": ends[-1].judge_metrics.get("auc") if ends else None,
        "steps": trainer.step,
        "tokens": tokens,
        "flops": flops,
        "seconds": trained,
        "test_seconds": time.monotonic() - started - trained,
        "conditions": {"device": plan.device, **describe_machine()},
        "predictions": [p.model_dump(mode="json") for p in predictions],
    }


# --- rehearsal ------------------------------------------------------------------------------------


def make_rehearsal(registered: dict[str, Any], folder: Path, device: str) -> Plan:
    """The same rows on a tiny student, a tiny judge and questions that were made up."""
    _write_questions(folder / "data" / registered["data"]["dataset"])
    gpu_models.save_base(folder / "models" / "smollm2-1", "llama")
    gpu_models.save_base(folder / "models" / "all-MiniLM-L6-v2", "bert")
    settings = dict(registered["settings"])
    settings["hyperparameters"] = {
        "iterations": 3, "iteration_steps": 1, "batch_size": 4, "learning_rate": 1e-3,
        "max_question_tokens": 64, "max_rationale_tokens": 16, "max_label_tokens": 8,
    }  # fmt: skip
    settings["negatives"] = {**settings["negatives"], "lag": 1}
    settings["discriminator"] = {"pretrain_steps": 1, "update_steps": 1, "batch_size": 2}
    tiny = {
        **registered,
        "settings": settings,
        "student": {"base": "smollm2-1", "judge": "minilm"},
        "data": {**registered["data"], "train": 8, "validate": 2, "test": 6},
        "order": {**registered["order"], "seeds": [0]},
    }
    return Plan(tiny, folder / "data", folder / "models", device, rehearsed=True)


def _write_questions(folder: Path) -> None:
    folder.mkdir(parents=True)
    choices = ["red", "blue", "seven", "nine", "ten"]
    for name, numbers in (("train", range(40)), ("test", range(90, 96))):
        rows = []
        for n in numbers:
            label, wrong = choices[n % 5], choices[(n + 1) % 5]
            said = label if n % 4 else wrong
            mark = "abcde"[choices.index(said)]
            row = {
                "question": f"A box holds {n} pens. Which is it?",
                "choices": choices,
                "label": label,
                "teacher_output": f"It is so. So the answer is ({mark}) {said}.",
            }
            rows.append(json.dumps(row))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n")


# --- the command ----------------------------------------------------------------------------------


def run(plan: Plan, out: Path, clock: Clock, processes: int) -> int:
    path = out / f"{plan.registered['name']}.jsonl"
    if not plan.rehearsed:
        # Once, before there are processes that would.
        for name in {plan.registered["student"]["base"], plan.registered["student"]["judge"]}:
            print(f"{name}: {students.get_checkpoint(name, plan.models)}", flush=True)
    results, failed = run_pool.run_all(
        plan.keys, partial(run_row, plan), [path], processes=processes, clock=clock
    )
    print(render_page(plan.registered, results))
    if failed:
        return FAILED
    done = {table.result_key(line) for line in results if "failed" not in line}
    return WHOLE if all(key in done for key in plan.keys) else UNFINISHED


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--plan", default="decide")
    parser.add_argument("--data", type=Path, help="the folder that holds the data sets' folders")
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, help="seconds; default the plan's")
    parser.add_argument("--processes", type=int, help="runs at a time; default the plan's")
    parser.add_argument("--page", action="store_true", help="print the page and run nothing")
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_arguments(argv)
    try:
        return _run_command(options)
    except QcrdError as error:
        print(f"error: {error.message}")
        return CANNOT


def _run_command(options: argparse.Namespace) -> int:
    registered = read_plan(options.plan)
    if options.page:
        path = options.out / f"{registered['name']}.jsonl"
        print(render_page(registered, table.read_results(path)))
        return WHOLE
    clock = Clock(options.limit or registered["order"]["seconds"])
    processes = options.processes or registered["order"]["processes"]
    if options.rehearse:
        with tempfile.TemporaryDirectory() as folder:
            plan = make_rehearsal(registered, Path(folder), options.device)
            return run(plan, options.out / "rehearsed", clock, min(2, processes))
    data = options.data or (Path(os.environ["QCRD_DATA"]) if "QCRD_DATA" in os.environ else None)
    if data is None:
        raise NotFound("--data is missing: the folder that holds the data sets' folders")
    plan = Plan(registered, data, options.models, options.device)
    return run(plan, options.out, clock, processes)


if __name__ == "__main__":
    raise SystemExit(main())
