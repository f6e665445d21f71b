"""Smoke: whether everything that trains and teaches does on a GPU what it does on a CPU.

Tiny models with random weights, all in this process, with the store in memory.
"""

from __future__ import annotations

import math
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import models, parity
from benchmarks.gpu.results import Part
from qcrd.method.distributed import shard_files, sharding
from qcrd.method.distributed.process_ranks import ProcessRanks
from qcrd.method.judge.model import Judge, LocalJudge
from qcrd.method.training.checkpoint import capture_state, make_empty_tensor, restore_state
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.progress import IterationFinished, StepFinished
from qcrd.method.training.trainer import Trainer
from qcrd.method.training.weight_history import copy_trainable_weights, get_trainable_weights
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime.storage.store import MemoryStore
from services.trainer.checkpoints.store import CheckpointStore

SECONDS = 180.0
WITHOUT_JUDGE = "dss+positives+negatives"
"""A judge of this process would have to be saved too."""
SAVED_STEP = 3
ONE_RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


def list_parts(device: str) -> list[Part]:
    parts = [
        *(Part(f"teacher-{k}", partial(parity.check_teacher, device, k)) for k in ("llama", "t5")),
        Part("judge", partial(parity.check_judge, device)),
        *(
            Part(
                f"trainer-{kind}{'-lora' if lora else ''}",
                partial(parity.check_trainer, device, kind, lora=lora),
            )
            for kind in ("llama", "t5")
            for lora in (False, True)
        ),
        Part("picks", partial(parity.check_picks, device)),
        Part("attention-plain", partial(parity.check_attention, device, "llama"), 30),
        Part("attention-windowed", partial(parity.check_attention, device, "mistral"), 30),
        Part("training-with-judge", partial(check_training, device)),
        *(Part(f"resume-{k}", partial(check_resume, device, k)) for k in ("llama", "t5")),
        Part("fully-shard", partial(check_one_rank, device)),
    ]
    return parts


def make_trainer(device: str, kind: str, method: str) -> Trainer:
    torch.manual_seed(0)
    judge = None
    if method == "qcrd":
        spec = JudgeSpec(pretrain_steps=3, update_steps=2, batch_size=4, hidden=16, max_tokens=64)
        model = Judge(models.make_tiny("bert"), models.make_tokenizer(), hidden=16, max_tokens=64)
        judge = LocalJudge(model.to(device), spec, seed=0)
    return Trainer(
        models.make_tiny_student(kind, device),
        models.make_examples(8),
        parity.make_plan(method),
        lambda _: (0.5, 0.0),
        judge,
    )


def check_training(device: str) -> dict[str, Any]:
    """A whole training: judge, sampled negatives, iterations. What is drawn differs between
    devices, so all that is asked is that it goes through and stays finite."""
    trainer = make_trainer(device, "llama", "qcrd")
    records = list(trainer.run())
    steps = [record for record in records if isinstance(record, StepFinished)]
    iterations = [record for record in records if isinstance(record, IterationFinished)]
    finite = all(math.isfinite(value) for step in steps for value in step.losses.values())
    return {
        "ok": finite and len(steps) == trainer.schedule.steps and bool(trainer.last_samples),
        "steps": len(steps),
        "iterations": len(iterations),
        "sampled_questions": len(trainer.last_samples),
        "last_loss": steps[-1].losses["loss"],
    }


def check_resume(device: str, kind: str) -> dict[str, Any]:
    """A training that is saved in the middle goes on from there to the same bits. torch is asked
    for deterministic kernels; how far it comes without them is told beside it."""
    with deterministic() as warned:
        resumed = _has_same_bits(device, kind)
    return {
        "ok": resumed,
        "same_bits": resumed,
        "same_bits_with_any_kernels": _has_same_bits(device, kind),
        "kernels_without_a_deterministic_form": sorted(warned),
    }


def _has_same_bits(device: str, kind: str) -> bool:
    checkpoints = CheckpointStore(MemoryStore(), "ftjob-1", run_digest="r", interval_seconds=0)
    unbroken = make_trainer(device, kind, WITHOUT_JUDGE)
    for record in unbroken.run():
        if isinstance(record, StepFinished) and record.step == SAVED_STEP:
            checkpoints.save(WITHOUT_JUDGE, capture_state(unbroken))
    resumed = make_trainer(device, kind, WITHOUT_JUDGE)
    state, rejected = checkpoints.load(WITHOUT_JUDGE, partial(make_empty_tensor, resumed))
    assert state is not None, rejected
    restore_state(resumed, state)
    for _ in resumed.run():
        pass
    whole, parts = copy_trainable_weights(unbroken.student), copy_trainable_weights(resumed.student)
    return all(torch.equal(weight, parts[name]) for name, weight in whole.items())


@contextmanager
def deterministic() -> Iterator[set[str]]:
    """Deterministic kernels where there are any; the warnings name what has none."""
    named: set[str] = set()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield named
        finally:
            torch.use_deterministic_algorithms(False)
    told = (str(warning.message) for warning in caught)
    named |= {text.split(" ", 1)[0] for text in told if "deterministic" in text}


def check_one_rank(device: str) -> dict[str, Any]:
    """`fully_shard` over a mesh of one rank: the losses of a plain student, and shards that are
    written and read again."""
    plain = parity.train_steps(OptimizerStep(_make_llama(device), parity.make_plan()))
    with one_rank() as ranks:
        student = _make_llama(device)
        student.ranks = ranks
        mesh = sharding.build_mesh(device, replicas=1, shards=1)
        step = OptimizerStep(student, parity.make_plan(), mesh)
        compared = parity.compare_curves(plain, parity.train_steps(step), parity.FP32_TOLERANCE)
        with tempfile.TemporaryDirectory() as folder:
            compared["same_shards"] = _write_and_read(step, Path(folder))
        compared["bf16"] = _train_sharded_bf16(device, ranks, mesh, plain)
        ranks.finish()
    compared["ok"] = compared["ok"] and compared["same_shards"] and compared["bf16"]["ok"]
    return compared


def _make_llama(device: str) -> Any:
    return models.make_tiny_student("llama", device)


def _train_sharded_bf16(device: str, ranks: ProcessRanks, mesh: Any, plain: Any) -> dict[str, Any]:
    student = _make_llama(device)
    student.ranks, student.bf16 = ranks, True
    step = OptimizerStep(student, parity.make_plan(), mesh)
    return parity.compare_curves(plain, parity.train_steps(step), parity.BF16_TOLERANCE)


def _write_and_read(step: OptimizerStep, folder: Path) -> bool:
    weights = {
        name: weight.to("cpu") for name, weight in get_trainable_weights(step.student).items()
    }
    shard_files.write_shards(weights, folder, step.ranks.background_group)
    read = {name: torch.empty_like(weight) for name, weight in weights.items()}
    shard_files.read_shards(read, folder, step.ranks.background_group)
    return all(
        torch.equal(sharding.to_plain(read[name]), sharding.to_plain(weight))
        for name, weight in weights.items()
    )


@contextmanager
def one_rank() -> Iterator[ProcessRanks]:
    """This process as the only rank, by the variables that torchrun would set."""
    before = dict(os.environ)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(ONE_RANK, MASTER_PORT=str(port))
    try:
        with ProcessRanks() as ranks:
            yield ranks
    finally:
        os.environ.clear()
        os.environ.update(before)
