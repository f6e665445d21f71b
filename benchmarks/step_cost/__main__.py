"""Cost of a training step: QCRD against DSS, ours against naive code and HF's trainer.

    python -m benchmarks.step_cost [--student minilm|t5] [--rounds 7] [--json FILE]

One run on one machine: every round times all contenders on the same batch, and a ratio is the
median over rounds of the round's own ratio. The student is the shipped one or a T5 of T5-small's
size (what a step costs does not depend on the weights' values); questions and rationales are random
words, 30 to 50 in a question and 25 to 60 in a rationale. `wall_over_dss` is over whole
iterations, with half of the machine's cores to train and a second process to sample.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_cost.cached_reading import CachedCausalStudent
from benchmarks.step_cost.fixtures import (
    BATCH,
    POSITIVES,
    SEED,
    STUDENTS,
    StepFixture,
    make_fixture,
)
from qcrd.method import losses
from qcrd.method.compute import has_bf16
from qcrd.method.judge.controls import ConstantJudge
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.targets import Target
from qcrd.method.training.negatives.sampler import InlineNegativeSampler, ProcessNegativeSampler
from qcrd.method.training.objectives import OBJECTIVES
from qcrd.method.training.progress import IterationFinished
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.step_loss import StepModule
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import Hyperparameters, LossSpec, NegativeSpec

MARGIN = 50.0
"""δ under which every negative is in force."""
ITERATION_BATCHES = 4
"""Batches of one whole iteration."""
BESIDES = ("wall_inline_over_dss",)
"""Ratios without a bound of their own."""
SAMPLED_TOKENS = 64


def run_step(case: StepFixture, method: str, batch: Sequence[TrainingExample]) -> None:
    """Forward and backward; the optimizer's step, the same for all, is left out."""
    case.student.model.train()
    step = StepModule(case.student, OBJECTIVES[method], LossSpec(delta=MARGIN))
    terms = step(batch, case.scores, 0)
    terms.total.backward()
    case.student.model.zero_grad(set_to_none=True)


def run_naive_step(case: StepFixture, batch: Sequence[TrainingExample]) -> None:
    """The equations taken literally: every candidate encodes its question and keeps its graph."""
    student, spec = case.student, LossSpec(delta=MARGIN)
    student.model.train()

    def ce(prefix: str, targets: Sequence[tuple[TrainingExample, str]]) -> torch.Tensor:
        total, count = student.cross_entropy(
            [prefix + item.text for item, _ in targets],
            range(len(targets)),
            [Target(text) for _, text in targets],
        )
        return total / count

    label = ce(PREDICT_PREFIX, [(item, item.label) for item in batch]).mean()
    sides = []
    for side in ("positives", "negatives"):
        rows = [(item, r) for item in batch for r in getattr(item, side)]
        grid = ce(EXPLAIN_PREFIX, [(item, r.text) for item, r in rows]).view(len(batch), -1)
        s = torch.tensor([case.scores[r.id] for _, r in rows]).view(len(batch), -1)
        sides.append((grid, s))
    (pos, s_pos), (neg, s_neg) = sides
    all_mask, lots = torch.ones_like(pos, dtype=torch.bool), torch.zeros_like(pos)
    low = losses.weight_lowest(pos.detach(), all_mask, s_pos, lots)
    high = losses.weight_highest(
        neg.detach(), all_mask[:, : neg.shape[1]], s_neg, lots[:, : neg.shape[1]]
    )
    positive = losses.positive_term(pos, low, s_pos)
    negative = losses.negative_term(neg, high, s_neg, MARGIN)
    (label + losses.contrastive_loss(positive, negative, spec.beta) / len(batch)).backward()
    student.model.zero_grad(set_to_none=True)


def run_hf_step(case: StepFixture, batch: Sequence[TrainingExample]) -> None:
    """DSS as its authors train it, with `Seq2SeqTrainer`: two forward passes of the whole model per
    batch, each padded to the batch's longest question and target, the loss the model's own."""
    model, tokenizer = case.student.model, case.student.tokenizer
    model.train()
    longest = max(len(tokenizer(r.text).input_ids) for item in batch for r in item.positives[:1])

    def loss(prefix: str, targets: Sequence[str]) -> torch.Tensor:
        inputs = tokenizer([prefix + i.text for i in batch], padding=True, return_tensors="pt")
        target_ids = tokenizer(
            list(targets), padding="max_length", max_length=longest, truncation=True,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        labels = target_ids.masked_fill(target_ids == tokenizer.pad_token_id, -100)
        output = model(
            input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, labels=labels
        )
        result: torch.Tensor = output.loss
        return result

    predicted = loss(PREDICT_PREFIX, [item.label for item in batch])
    explained = loss(EXPLAIN_PREFIX, [item.positives[0].text for item in batch])
    (0.5 * predicted + 0.5 * explained).backward()
    model.zero_grad(set_to_none=True)


def share_model(student: CausalStudent) -> CachedCausalStudent:
    """The same model, read through a key-value cache."""
    return CachedCausalStudent(
        student.model,
        student.tokenizer,
        max_question_tokens=student.max_question_tokens,
        max_target_tokens=student.max_target_tokens,
    )


def time_iterations(
    case: StepFixture, method: str, rounds: int, *, sampler_process: bool = False
) -> list[float]:
    """Seconds of each of `rounds` whole iterations of the trainer after a warm-up iteration:
    negatives, training steps and the optimizer; without validation. `sampler_process`: a second
    process samples the next iteration's negatives during training."""
    lessons = [lesson for batch in case.batches[:ITERATION_BATCHES] for lesson in batch]
    hyper = {
        "iterations": rounds + 1, "iteration_steps": ITERATION_BATCHES, "batch_size": BATCH,
        "max_rationale_tokens": SAMPLED_TOKENS,
    }  # fmt: skip
    spec = MethodSpec(
        loss=LossSpec(delta=MARGIN),
        negatives=NegativeSpec(lag=1),
        hyperparameters=Hyperparameters.model_validate(hyper),
    )
    training_plan = make_schedule(method, spec, n_examples=len(lessons), seed=SEED)
    past = (
        ProcessNegativeSampler(case.student, "cpu")
        if sampler_process
        else InlineNegativeSampler(case.student)
    )
    trainer = Trainer(
        case.student, lessons, training_plan, lambda _: (0.0, 0.0), ConstantJudge(), past
    )
    ends = []
    with contextlib.closing(past):
        for record in trainer.run():
            if isinstance(record, IterationFinished):
                ends.append(time.perf_counter())
    return [end - begin for begin, end in itertools.pairwise(ends)]


def time_call(
    run: Callable[[Sequence[TrainingExample]], None], batch: Sequence[TrainingExample]
) -> float:
    started = time.perf_counter()
    run(batch)
    return time.perf_counter() - started


def measure_peak_memory(models: Path, kind: str, method: str) -> float:
    """MiB that one step of `method` needs beyond the loaded student, in a separate process."""
    command = [sys.executable, "-m", "benchmarks.step_cost", "--models", str(models)]
    completed = subprocess.run(
        [*command, "--student", kind, "--peak", method],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(completed.stdout.split()[-1])


def print_peak_memory(models: Path, kind: str, method: str) -> None:
    """Linux only: reset the peak resident size after loading the student, then read it again."""
    case = make_fixture(models, 1, kind)
    Path("/proc/self/clear_refs").write_text("5")
    before = _read_status_kb("VmRSS")
    run_step(case, method, case.batches[0])
    print((_read_status_kb("VmHWM") - before) / 1024)


def _read_status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(models: Path, kind: str, rounds: int, steps_only: bool = False) -> dict[str, Any]:
    # Half the cores train, so that the sampler's process has a device of its own.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    case = make_fixture(models, max(rounds + 1, ITERATION_BATCHES), kind)
    contenders: dict[str, Callable[[Sequence[TrainingExample]], None]] = {
        "dss": lambda batch: run_step(case, "dss", batch),
        "qcrd": lambda batch: run_step(case, "qcrd", batch),
        "naive": lambda batch: run_naive_step(case, batch),
    }
    if isinstance(case.student, CausalStudent):
        cached = replace(case, student=share_model(case.student))
        contenders["cached"] = lambda batch: run_step(cached, "qcrd", batch)
    else:
        contenders["hf"] = lambda batch: run_hf_step(case, batch)
    for run in contenders.values():  # warm-up: allocator, thread pool
        run(case.batches[-1])
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for batch in case.batches[:rounds]:
        for name, run in contenders.items():
            times[name].append(time_call(run, batch))

    def ratio(over: str, under: str) -> list[float]:
        return sorted(a / b for a, b in zip(times[over], times[under], strict=True))

    ratios = {
        "qcrd_over_dss": ratio("qcrd", "dss"),
        "naive_over_ours": ratio("naive", "qcrd"),
    }
    if "cached" in contenders:
        ratios["cached_over_ours"] = ratio("cached", "qcrd")
    else:
        ratios["hf_trainer_over_ours"] = ratio("hf", "dss")
    if not steps_only:
        dss, inline = time_iterations(case, "dss", rounds), time_iterations(case, "qcrd", rounds)
        walls = {
            "wall_over_dss": time_iterations(case, "qcrd", rounds, sampler_process=True),
            "wall_inline_over_dss": inline,
        }
        for name, found in walls.items():
            ratios[name] = sorted(a / b for a, b in zip(found, dss, strict=True))
    memory = {method: measure_peak_memory(models, kind, method) for method in ("dss", "qcrd")}
    return {
        "ratios": {
            **{
                name: statistics.median(found)
                for name, found in ratios.items()
                if name not in BESIDES
            },
            "memory_over_dss": memory["qcrd"] / memory["dss"],
        },
        "besides": {name: statistics.median(ratios[name]) for name in BESIDES if name in ratios},
        "ranges": {name: [found[0], found[-1]] for name, found in ratios.items()},
        "seconds": {name: statistics.median(found) for name, found in times.items()},
        "conditions": {
            "student": kind,
            "student_parameters": sum(p.numel() for p in case.student.model.parameters()),
            "batch": BATCH,
            "positives": POSITIVES,
            "negatives": 1,
            "rounds": rounds,
            "negatives_in_force": "all (delta 50)",
            "sampler": None
            if steps_only
            else f"a process on the other core, {SAMPLED_TOKENS} tokens per question",
            "scoring": "bf16" if has_bf16(case.student.device) else "fp32",
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
            "seed": SEED,
        },
    }


def print_results(results: dict[str, Any]) -> None:
    for name, value in (results["ratios"] | results["besides"]).items():
        low, high = results["ranges"].get(name, (value, value))
        print(f"{name:22} {value:5.2f}   (rounds: {low:.2f} to {high:.2f})")
    print("conditions:", json.dumps(results["conditions"]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="What a training step costs.")
    parser.add_argument("--rounds", type=int, default=7, help="at least 2")
    parser.add_argument("--student", choices=STUDENTS, default="minilm")
    parser.add_argument("--steps-only", action="store_true", help="no whole iterations")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.peak:
        print_peak_memory(options.models, options.student, options.peak)
        return
    results = measure(options.models, options.student, options.rounds, options.steps_only)
    print_results(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
