"""Training throughput: our DSS and QCRD steps against the trainers that people use instead.

    python -m benchmarks.throughput [--rounds 3] [--steps 6] [--growth] [--ranks] [--json FILE]

A decoder-only student of random weights reads the same questions under every contender: DSS as two
sequences per question, label and rationale, whose tokens are counted without padding. Peers are
transformers' `Trainer` and, where it is installed (the extra `peers`), TRL's `SFTTrainer`,
each with its own collator and AdamW. Every contender runs in a process of its own, in an order that
turns with the round; the first two steps are warm-up. A ratio is the median of the rounds' ratios.
`--ranks` trains by one and by two processes of one thread each, on the same batches.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.step_cost.fixtures import SEED, make_example, make_llama
from qcrd.method.distributed import sharding
from qcrd.method.distributed.process_ranks import ProcessRanks
from qcrd.method.prompts import EXPLAIN_PREFIX, PREDICT_PREFIX
from qcrd.method.student.base import Student
from qcrd.method.student.targets import Target
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import Hyperparameters, LossSpec

QUESTIONS = 16
"""Per step."""
WARM_UP_STEPS = 2
MARGIN = 50.0
"""δ under which every negative is in force."""
LENGTHS, CANDIDATES = (128, 256, 512, 1024, 2048), (1, 3, 5, 10)
"""Words, which are nearly tokens, of a rationale, and positives of a question, of `--growth`."""
FEW_QUESTIONS = 2
"""Per step of `--growth`: with the longest rationales one takes as long as a hundred others."""
RANKS = (1, 2)


@dataclass(frozen=True)
class Work:
    """A student with the batches that it is to train on."""

    student: Student
    batches: list[list[TrainingExample]]

    def count_tokens(self) -> list[int]:
        """Tokens of each batch's DSS sequences, without padding."""
        return [sum(len(ids) for ids, _ in self.make_sequences(batch)) for batch in self.batches]

    def make_sequences(self, batch: Sequence[TrainingExample]) -> Iterator[tuple[list[int], int]]:
        """Each sequence's tokens, and how many of them are its prompt."""
        for item in batch:
            explained = Target(item.positives[0].text)
            for prompt, target in (
                (PREDICT_PREFIX + item.text, Target(answer=item.label)),
                (EXPLAIN_PREFIX + item.text, explained),
            ):
                (ids,) = self.student.tokenize_prompts([prompt])
                yield ids + self.student.tokenize_target(target), len(ids)


def make_work(models: Path, steps: int) -> Work:
    rng = random.Random(SEED)
    batches = [
        [make_example(f"{step}-{i}", rng) for i in range(QUESTIONS)] for step in range(steps)
    ]
    return Work(make_llama(models), batches)


def time_ours(work: Work, method: str, mesh: DeviceMesh | None = None) -> list[float]:
    """Seconds of each step: loss, gradients and the optimizer."""
    spec = MethodSpec(
        loss=LossSpec(delta=MARGIN), hyperparameters=Hyperparameters(batch_size=QUESTIONS)
    )
    schedule = make_schedule(method, spec, n_examples=100, seed=SEED)
    step = OptimizerStep(work.student, schedule, mesh)
    seconds = []
    for batch in work.batches:
        started = time.perf_counter()
        step.backward(batch, {}, SEED)
        step.clip_gradients()
        step.apply(1e-4)
        seconds.append(time.perf_counter() - started)
    return seconds


class StepTimes(TrainerCallback):
    """Seconds of each step of a trainer of transformers."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._started)


def make_settings(folder: str) -> dict[str, Any]:
    return {
        "output_dir": folder, "per_device_train_batch_size": 2 * QUESTIONS, "num_train_epochs": 1,
        "learning_rate": 1e-4, "report_to": [], "save_strategy": "no", "logging_strategy": "no",
        "disable_tqdm": True, "use_cpu": not torch.cuda.is_available(), "seed": SEED,
    }  # fmt: skip


def time_transformers(work: Work) -> list[float]:
    """`Trainer` with dynamic padding; prompts are not learned."""
    pad_id = work.student.tokenizer.pad_token_id
    rows = [row for batch in work.batches for row in work.make_sequences(batch)]

    def collate(features: Sequence[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
        width = max(len(ids) for ids, _ in features)
        padded = [ids + [pad_id] * (width - len(ids)) for ids, _ in features]
        mask = [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in features]
        labels = [
            [-100] * start + ids[start:] + [-100] * (width - len(ids)) for ids, start in features
        ]
        columns = {"input_ids": padded, "attention_mask": mask, "labels": labels}
        return {name: torch.tensor(column) for name, column in columns.items()}

    times = StepTimes()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(**make_settings(folder))
        dataset: Any = rows
        Trainer(
            model=work.student.model,
            args=arguments,
            train_dataset=dataset,
            data_collator=collate,
            callbacks=[times],
        ).train()
    return times.seconds


def time_trl(work: Work) -> list[float]:
    """`SFTTrainer` on tokens and labels; packing where it has a GPU for it."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [row for batch in work.batches for row in work.make_sequences(batch)]
    dataset = Dataset.from_list(
        [{"input_ids": ids, "labels": [-100] * start + ids[start:]} for ids, start in rows]
    )
    times, on_gpu = StepTimes(), torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            **make_settings(folder),
            packing=on_gpu,
            use_liger_kernel=on_gpu,
            bf16=on_gpu,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        SFTTrainer(
            model=work.student.model,
            args=arguments,
            train_dataset=dataset,
            processing_class=work.student.tokenizer,
            callbacks=[times],
        ).train()
    return times.seconds


CONTENDERS: dict[str, Callable[[Work], list[float]]] = {
    "dss": lambda work: time_ours(work, "dss"),
    "qcrd": lambda work: time_ours(work, "qcrd"),
    "transformers": time_transformers,
    "trl": time_trl,
}


def run_contender(models: Path, name: str, steps: int) -> dict[str, float]:
    """Median tokens per second of the steps after the warm-up, and the memory that training took
    beyond the loaded student, in MiB."""
    work = make_work(models, steps)
    tokens = work.count_tokens()
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = CONTENDERS[name](work)
    rates = [n / s for n, s in zip(tokens, seconds, strict=False)][WARM_UP_STEPS:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"tokens_per_second": statistics.median(rates), "memory_mib": (peak - loaded) / 1024}


def start_contender(models: Path, name: str, steps: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.throughput", "--models", str(models)]
    ended = subprocess.run(
        [*command, "--steps", str(steps), "--contender", name],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return found


def compare(models: Path, rounds: int, steps: int) -> dict[str, Any]:
    names = [n for n in CONTENDERS if n != "trl" or importlib.util.find_spec("trl")]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            found[name].append(start_contender(models, name, steps))
    rates = {n: [one["tokens_per_second"] for one in own] for n, own in found.items()}
    ratios = {
        f"dss_over_{peer}": [
            ours / theirs for ours, theirs in zip(rates["dss"], rates[peer], strict=True)
        ]
        for peer in names
        if peer not in {"dss", "qcrd"}
    }
    # Of time and not of rate: a QCRD step reads more than the tokens that DSS would.
    ratios["qcrd_step_over_dss"] = [d / q for d, q in zip(rates["dss"], rates["qcrd"], strict=True)]
    return {
        "ratios": {name: statistics.median(values) for name, values in ratios.items()},
        "ranges": {name: [min(values), max(values)] for name, values in ratios.items()},
        "tokens_per_second": {name: statistics.median(own) for name, own in rates.items()},
        "memory_mib": {
            name: statistics.median(one["memory_mib"] for one in own) for name, own in found.items()
        },
    }


def measure_growth(models: Path, steps: int) -> dict[str, dict[str, float]]:
    """Seconds of a QCRD step of few questions: by words of its rationales, one positive and one
    negative each, and by positives of the shortest."""
    work = make_work(models, steps)
    work.student.max_target_tokens = 2 * LENGTHS[-1]
    few = replace(work, batches=[batch[:FEW_QUESTIONS] for batch in work.batches])

    def change(words: int, positives: int) -> Work:
        def rewrite(item: TrainingExample) -> TrainingExample:
            text = " ".join((item.positives[0].text.split() * words)[:words])
            made = [
                Rationale(id=f"{item.id}/{i}", question_id=item.id, text=f"{i} {text}")
                for i in range(positives + 1)
            ]
            return replace(item, positives=tuple(made[:-1]), negatives=(made[-1],))

        return replace(few, batches=[[rewrite(item) for item in batch] for batch in few.batches])

    def seconds(words: int, positives: int) -> float:
        return statistics.median(time_ours(change(words, positives), "qcrd")[WARM_UP_STEPS:])

    return {
        "words": {str(words): seconds(words, 1) for words in LENGTHS},
        "positives": {str(n): seconds(LENGTHS[0], n) for n in CANDIDATES},
    }


def measure_ranks(models: Path, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a QCRD step by so many processes of one thread each: the median of each round."""
    found: dict[str, list[float]] = {str(n): [] for n in RANKS}
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    for _ in range(rounds):
        for n in RANKS:
            rank = ["-m", "benchmarks.throughput", "--models", str(models), "--steps", str(steps)]
            ended = subprocess.run(
                [*torchrun, f"--nproc-per-node={n}", *rank, "--contender", "rank"],
                stdout=subprocess.PIPE, text=True, check=True, env=environment,
            )  # fmt: skip
            found[str(n)].append(json.loads(ended.stdout.splitlines()[-1]))
    return found


def run_rank(models: Path, steps: int) -> None:
    """One of torchrun's processes; the main one prints the median seconds of a step."""
    torch.set_num_threads(1)
    with ProcessRanks() as ranks:
        work = make_work(models, steps)
        work.student.ranks = ranks
        mesh = sharding.make_mesh("cpu", replicas=ranks.size, shards=1)
        seconds = time_ours(work, "qcrd", mesh)[WARM_UP_STEPS:]
        if ranks.is_main:
            print(json.dumps(statistics.median(seconds)))
        ranks.finish()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="How fast students are trained, beside peers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help=f"more than {WARM_UP_STEPS}")
    parser.add_argument("--growth", action="store_true", help="by length and candidates as well")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--models", type=Path, default=Path.home() / ".qcrd/models")
    parser.add_argument("--ranks", action="store_true", help="by one and by two processes as well")
    parser.add_argument("--contender", choices=[*CONTENDERS, "rank"], help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.contender == "rank":
        run_rank(options.models, options.steps)
        return
    if options.contender:
        print(json.dumps(run_contender(options.models, options.contender, options.steps)))
        return
    results = compare(options.models, options.rounds, options.steps)
    if options.growth:
        results["growth_seconds"] = measure_growth(options.models, options.steps)
    if options.ranks:
        results["rank_seconds"] = measure_ranks(options.models, options.rounds, options.steps)
    results["conditions"] = {
        "questions": QUESTIONS, "steps": options.steps - WARM_UP_STEPS, "rounds": options.rounds,
        "seed": SEED, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
