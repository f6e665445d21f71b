"""Whether a student answers better behind a rationale of its own: `reasoned` against `label`.

    python -m benchmarks.reasoning --data DIR --out reasoning.jsonl
        [--datasets …] [--seeds …] [--student smollm2-30] [--train N] [--test N] [--keep DIR]
    python -m benchmarks.reasoning --table reasoning.jsonl

Per data set and seed three students of one base, asked as its chats are, on the same questions,
rationales and learning rate. `reasoned` sees them once; `label` (the label under one prefix, a
rationale under another) and `finetune` (labels alone) then get the floating-point work that it
took. Each is tested on the same questions, by what it says. Lines are appended as runs end and are
not repeated; seeds are the outer loop.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from benchmarks.ladder import data as ladder_data
from benchmarks.ladder import students, table
from benchmarks.ladder.data import DATASETS
from benchmarks.ladder.run import describe_machine
from qcrd.method.evaluation import predict
from qcrd.method.evaluation.statistics import crossed_bootstrap, t_interval
from qcrd.method.student.loading import load_student
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights
from qcrd.records.specs.spec import MethodSpec
from services.trainer.results import measuring

ROWS = {
    "reasoned": ("dss+positives", "reasoned"),
    "label": ("dss+positives", "label"),
    "finetune": ("finetune", "label"),
}
"""A row's method and what its student answers; the first one sets the compute of the others."""
ORDER = ("last_letter", "tracking", "svamp_gpt35")
COLUMNS = ("row", "seeds", "accuracy per seed", "mean", "95 % t interval", "tokens an answer")
COLUMNS += ("steps", "TFLOP", "s to train", "s to answer")


def make_spec(dataset: str, answers: str, options: argparse.Namespace) -> MethodSpec:
    shape = DATASETS[dataset]
    return MethodSpec.model_validate(
        {
            "loss": {"scheme": "sampling"},
            "student": {
                "answers": answers,
                "prompt": "auto",
                "lora": {"rank": 16},
                "lora_upper_share": options.upper_share,
            },
            "hyperparameters": {
                "iterations": options.epochs,
                "batch_size": options.batch_size,
                "learning_rate": options.learning_rate,
                "warmup_steps": 3,
                "max_question_tokens": shape.question_tokens + CHAT_TOKENS,
                "max_rationale_tokens": shape.rationale_tokens,
                "max_label_tokens": shape.label_tokens,
            },
        }
    ).model_copy(update={"task": shape.task})


CHAT_TOKENS = 24
"""Of a turn's frame, beside the question."""


def run(
    dataset: str, row: str, seed: int, flops: float | None, options: argparse.Namespace
) -> dict[str, Any]:
    """Train and test one student; `flops` ends its training where it is given."""
    method, answers = ROWS[row]
    spec = make_spec(dataset, answers, options)
    loaded = ladder_data.load_data(
        options.data / dataset, DATASETS[dataset], spec,
        seed=seed, train=options.train, validate=options.validate, test=options.test,
    )  # fmt: skip
    schedule = make_schedule(method, spec, n_examples=len(loaded.lessons), seed=seed, flops=flops)
    base = students.get_checkpoint(options.student, options.models)
    student = load_student(
        base, spec.student, spec.hyperparameters, seed=seed, device=options.device
    )
    trainer = Trainer(
        student,
        loaded.lessons,
        schedule,
        lambda tested: measuring.compute_validation_score(tested, loaded.validation, schedule),
    )
    started = time.monotonic()
    for _ in trainer.run():
        pass
    trained, spent = time.monotonic() - started, trainer.flops
    student = trainer.restore_best()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        weights = {name: w.contiguous() for name, w in copy_trainable_weights(student).items()}
        save_file(weights, options.keep / f"{dataset}-{row}-{seed}.safetensors")
    started = time.monotonic()
    predictions = measuring.predict_labeled(student, loaded.test, schedule, lambda: None)
    return {
        "dataset": dataset,
        "method": row,
        "seed": seed,
        "questions": {"train": len(loaded.lessons), "test": len(predictions)},
        "steps": trainer.step,
        "flops": spent,
        "seconds": trained,
        "test_seconds": time.monotonic() - started,
        "test": predict.accuracy(predictions).accuracy,
        "answer_tokens": sum(len(student.tokenizer(p.text).input_ids) for p in predictions)
        / len(predictions),
        "majority_class": predict.majority_class_accuracy(
            [lesson.gold for lesson in loaded.lessons], loaded.test.golds
        ).accuracy,
        "conditions": {**_list_conditions(options), **describe_machine()},
        "predictions": [p.model_dump(mode="json") for p in predictions],
    }


def _list_conditions(options: argparse.Namespace) -> dict[str, Any]:
    names = ("student", "epochs", "batch_size", "learning_rate", "upper_share", "device")
    return {name: getattr(options, name) for name in names}


def run_all(options: argparse.Namespace, get_time_left: Callable[[], float] = lambda: inf) -> bool:
    """Whether every run is there. One is begun only where the longest so far would end in time."""
    longest = 0.0
    finished = {table.result_key(line): line for line in table.read_results(options.out)}
    for seed, dataset in product(options.seeds, options.datasets):
        flops: float | None = None
        for row in options.rows:
            line = finished.get((dataset, row, seed))
            if line is None:
                if get_time_left() <= longest:
                    return False
                started = time.monotonic()
                line = run(dataset, row, seed, flops, options)
                longest = max(longest, time.monotonic() - started)
                table.append_result(options.out, line)
                print(_format_run(line), flush=True)
            flops = line["flops"] if row == "reasoned" else flops
    return True


def _format_run(line: dict[str, Any]) -> str:
    return (
        f"{line['dataset']:12} {line['method']:9} {line['seed']}  test {line['test']:.3f} "
        f"(majority class {line['majority_class']:.3f})  {line['steps']} steps  "
        f"{line['flops'] / 1e12:.1f} TFLOP  {line['seconds']:.0f} + {line['test_seconds']:.0f} s"
    )


def render_markdown(lines: Sequence[dict[str, Any]]) -> str:
    """A table per data set, of rows over seeds; what has not been run has a row that says so."""
    return "\n\n".join(
        _render_dataset(dataset, [line for line in lines if line["dataset"] == dataset])
        for dataset in ORDER
    )


def _render_dataset(dataset: str, lines: Sequence[dict[str, Any]]) -> str:
    parts = [f"### {dataset}", ""]
    if lines:
        questions = lines[0]["questions"]
        majority = table.mean_of(lines, "majority_class")
        parts += [
            f"{questions['train']} training and {questions['test']} test questions; the commonest "
            f"training label is right for {majority:.3f} of them.",
            "",
        ]
    parts += [table.format_row(COLUMNS), table.format_row(["---"] * len(COLUMNS))]
    runs = {row: [line for line in lines if line["method"] == row] for row in ROWS}
    parts += [_render_row(row, own) for row, own in runs.items()]
    for row in list(ROWS)[1:]:
        parts += _compare(row, runs["reasoned"], runs[row])
    return "\n".join(parts)


def _render_row(row: str, runs: Sequence[dict[str, Any]]) -> str:
    if not runs:
        return table.format_row([row, "not run", *[""] * (len(COLUMNS) - 2)])
    accuracies = [line["test"] for line in runs]
    interval = t_interval(accuracies)
    means = (table.mean_of(runs, name) for name in ("answer_tokens", "steps"))
    cells = [
        row,
        str(len(runs)),
        ", ".join(f"{value:.3f}" for value in accuracies),
        f"{interval.value:.3f}",
        f"{interval.low:.3f} to {interval.high:.3f}" if len(runs) > 1 else "",
        *(f"{mean:.1f}" for mean in means),
        f"{table.mean_of(runs, 'flops') / 1e12:.1f}",
        f"{table.mean_of(runs, 'seconds'):.0f}",
        f"{table.mean_of(runs, 'test_seconds'):.0f}",
    ]
    return table.format_row(cells)


def _compare(
    row: str, reasoned: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]
) -> list[str]:
    """The paired difference over the seeds that both have, seeds and questions drawn anew."""
    import numpy as np

    by_seed = {line["seed"]: line for line in others}
    pairs = [(line, by_seed[line["seed"]]) for line in reasoned if line["seed"] in by_seed]
    if not pairs:
        return []
    gains = np.array(
        [
            [
                int(one["right"]) - int(other["right"])
                for one, other in zip(mine["predictions"], theirs["predictions"], strict=True)
            ]
            for mine, theirs in pairs
        ]
    )
    found = crossed_bootstrap(gains, seed=0)
    return [
        f"\n`reasoned` less `{row}`: {100 * found.value:+.1f} points [{100 * found.low:+.1f}, "
        f"{100 * found.high:+.1f}] (crossed bootstrap over {len(pairs)} seeds and "
        f"{gains.shape[1]} questions)."
    ]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, help="print a results file as Markdown, run nothing")
    parser.add_argument("--data", type=Path, help="the folder that holds the data sets' folders")
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--out", type=Path, default=Path("reasoning.jsonl"))
    parser.add_argument("--keep", type=Path, help="folder for the weights that were trained")
    parser.add_argument("--datasets", nargs="+", choices=ORDER, default=list(ORDER))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--student", default="smollm2-30")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--upper-share", type=float, default=0.667, help="layers with adapters")
    parser.add_argument("--train", type=int, help="most training questions; default all")
    parser.add_argument("--validate", type=int, default=24, help="most validation questions")
    parser.add_argument("--test", type=int, help="most test questions; default all")
    parser.add_argument("--device", default="cpu", help="`cuda`: the GPU")
    options = parser.parse_args(argv)
    if options.rows[0] != "reasoned":
        parser.error("--rows: `reasoned` goes first, it sets the compute of the others")
    if options.table is None and options.data is None:
        parser.error("--data is missing: the folder that holds the data sets' folders")
    return options


def main(argv: list[str] | None = None) -> None:
    options = parse_arguments(argv)
    if options.table:
        print(render_markdown(table.read_results(options.table)))
        return
    transformers.utils.logging.disable_progress_bar()
    torch.set_float32_matmul_precision("highest")
    run_all(options)


if __name__ == "__main__":
    main()
