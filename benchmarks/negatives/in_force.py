"""Which of an untrained student's samples would act as negatives, by the temperature they have.

    python -m benchmarks.negatives.in_force --data FOLDER [--dataset svamp] [--student smollm2-30]

For each temperature: the sampler's own entropy, the quartiles of the samples' cross entropy under
the same student, the share below the margin (*in force*), and what the samples are. The last row is
what `negatives.temperature: auto` takes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.ladder import data as ladder_data
from benchmarks.ladder import students
from benchmarks.ladder.data import DATASETS
from qcrd.method.evaluation.statistics import wilson_interval
from qcrd.method.student.loading import load_student
from qcrd.method.training.negatives.sampler import InlineNegativeSampler
from qcrd.method.training.negatives.supply import TEMPERATURES, NegativeSupply
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.weight_history import WeightHistory, copy_trainable_weights
from qcrd.records.specs.spec import MethodSpec

SEED, METHOD = 0, "dss+positives+negatives"
COLUMNS = ("entropy", "ce_q1", "ce_median", "ce_q3", "in_force_share", "wrong_share")
COLUMNS += ("right_share", "unread_share", "cut_share")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    dataset = DATASETS[options.dataset]
    plain = MethodSpec.model_validate(
        {"hyperparameters": {"max_rationale_tokens": options.tokens, "max_question_tokens": 256}}
    ).model_copy(update={"task": dataset.task})
    loaded = ladder_data.load_data(
        options.data / options.dataset, dataset, plain, seed=SEED, train=options.questions
    )
    base = students.get_checkpoint(options.student, options.models)
    student = load_student(base, plain.student, plain.hyperparameters, seed=SEED)
    history = WeightHistory(plain.negatives.lag)
    history.push(0, copy_trainable_weights(student))
    sampler = InlineNegativeSampler(student)
    rows: dict[str, dict[str, float]] = {}
    for temperature in (*TEMPERATURES, "auto"):
        negatives = plain.negatives.model_copy(update={"temperature": temperature})
        spec = plain.model_copy(update={"negatives": negatives})
        schedule = make_schedule(METHOD, spec, n_examples=len(loaded.lessons), seed=SEED)
        supply = NegativeSupply(lambda: student, schedule, loaded.lessons, sampler, history, None)
        started = time.monotonic()
        metrics = supply.prepare(0, loaded.lessons).metrics
        rows[str(temperature)] = {**metrics, "seconds": time.monotonic() - started}
        print_row(str(temperature), rows[str(temperature)])
    return {
        "rows": rows,
        "conditions": {
            "student": options.student,
            "dataset": options.dataset,
            "questions": len(loaded.lessons),
            "tokens": options.tokens,
            "delta": plain.loss.delta,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "seed": SEED,
        },
    }


def print_row(name: str, metrics: dict[str, float]) -> None:
    n = round(metrics["samples"])
    share = wilson_interval(round(metrics["in_force_share"] * n), n)
    cells = [f"{metrics.get(column, float('nan')):.2f}" for column in COLUMNS]
    taken = f" (took {metrics['temperature']:g})" if name == "auto" else ""
    print(
        f"| {name}{taken} | {' | '.join(cells)} | [{share.low:.2f}, {share.high:.2f}] |", flush=True
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", choices=sorted(DATASETS), default="svamp")
    parser.add_argument("--student", default="smollm2-30")
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    print(f"| temperature | {' | '.join(COLUMNS)} | in force, 95 % |")
    results = measure(options)
    print("conditions:", json.dumps(results["conditions"]))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
