"""Several processes that train one student: each takes a share of every batch.

Started by torchrun, or by anything that sets its variables. The first process runs the whole
trainer, with judge, sampling, validation and checkpoints; the others hold a copy of the student and
its optimizer and execute its commands, so none of them needs the store or the event log. Gradients
are summed, and every copy takes the same step.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from qcrd.errors import QcrdError
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.step_loss import JudgeScores, TrainingExample

PROCESS_GROUP_TIMEOUT = timedelta(days=7)
"""The others wait while the first process samples or validates; they notice its end at once."""


@dataclass(frozen=True)
class BackwardMessage:
    """One process's part of a step: `backward` on it, with the dropout of `seed`."""

    batch: Sequence[TrainingExample]
    scores: JudgeScores
    seed: int


@dataclass(frozen=True)
class ApplyMessage:
    learning_rate: float


def is_distributed() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


class DataParallelGroup:
    """The first process's handle on all. A context manager: the others end with it."""

    def __enter__(self) -> DataParallelGroup:
        _init_process_group()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        # Our errors are raised between steps, where the others wait for a command. After any other
        # error this process ends, and its closed sockets end them.
        if error is None or isinstance(error, QcrdError):
            _broadcast(None)
            dist.destroy_process_group()

    def broadcast_replica(self, optimizer_step: OptimizerStep) -> None:
        """Send all others a copy of the student and its optimizer."""
        buffer = io.BytesIO()
        torch.save(optimizer_step, buffer)
        _broadcast(buffer.getvalue())

    def backward(
        self,
        optimizer_step: OptimizerStep,
        batch: Sequence[TrainingExample],
        scores: JudgeScores,
        seed: int,
    ) -> dict[str, float]:
        """`optimizer_step`'s gradients over all of `batch`, and the terms of its loss."""
        world_size = dist.get_world_size()
        messages = []
        for rank in range(world_size):
            part = list(batch[rank::world_size])
            rationale_ids = {
                r.id for example in part for r in (*example.positives, *example.negatives)
            }
            part_scores = {key: scores[key] for key in rationale_ids & scores.keys()}
            messages.append(BackwardMessage(part, part_scores, seed + rank))
        _broadcast(messages)
        return _backward(optimizer_step, messages[0])

    def apply(self, optimizer_step: OptimizerStep, learning_rate: float) -> None:
        _broadcast(ApplyMessage(learning_rate))
        optimizer_step.apply(learning_rate)


def run_replica(device: str) -> None:
    """Execute the first process's commands until it is done; for all other processes."""
    _init_process_group()
    optimizer_step: OptimizerStep | None = None
    while (message := _receive_broadcast()) is not None:
        if isinstance(message, bytes):
            # The first process of our own run made these bytes: whole objects are safe to load.
            optimizer_step = torch.load(
                io.BytesIO(message), map_location=device, weights_only=False
            )
            continue
        assert optimizer_step is not None
        if isinstance(message, ApplyMessage):
            optimizer_step.clip_gradients()
            optimizer_step.apply(message.learning_rate)
        else:
            _backward(optimizer_step, message[dist.get_rank()])
    dist.destroy_process_group()


def _init_process_group() -> None:
    # Counts and messages go by gloo; gradients by NCCL where they lie on GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PROCESS_GROUP_TIMEOUT)


def _broadcast(message: Any) -> None:
    dist.broadcast_object_list([message], src=0, device=torch.device("cpu"))


def _receive_broadcast() -> Any:
    box: list[Any] = [None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _backward(optimizer_step: OptimizerStep, message: BackwardMessage) -> dict[str, float]:
    student = optimizer_step.student
    flops_before, tokens_before = student.flops, student.tokens
    losses = optimizer_step.backward(
        message.batch, message.scores, message.seed, reduce_sum=_all_reduce_sum
    )
    pending = []
    for parameter in optimizer_step.parameters():
        if parameter.grad is None:  # no token of this share used it
            parameter.grad = torch.zeros_like(parameter)
        pending.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()
    names = sorted(losses)
    costs = [student.flops - flops_before, student.tokens - tokens_before]
    sums = torch.tensor([*(losses[name] for name in names), *costs], dtype=torch.float64)
    dist.all_reduce(sums)
    student.flops = flops_before + float(sums[-2])
    student.tokens = tokens_before + float(sums[-1])
    return dict(zip(names, sums.tolist(), strict=False))


def _all_reduce_sum(count: float) -> float:
    total = torch.tensor(float(count), dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)
