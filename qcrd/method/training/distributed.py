"""Several processes that train one student: each takes a share of every batch.

Started by torchrun, or by anything that sets its variables. The first process runs the whole
trainer, with judge, sampling, validation and checkpoints; the others hold a copy of the student and
its optimizer and do as they are told, so none of them needs the store or the event log. Gradients
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
from qcrd.method.training.optimizer_step import Update
from qcrd.method.training.step_loss import Lesson, Scores

PATIENCE = timedelta(days=7)
"""While the first process samples or validates the others wait; its end reaches them at once."""


@dataclass(frozen=True)
class Share:
    """One process's part of a step: `backward` on it, with the dropout of `seed`."""

    batch: Sequence[Lesson]
    scores: Scores
    seed: int


@dataclass(frozen=True)
class Apply:
    rate: float


def wanted() -> bool:
    """Whether this process was started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


class Crew:
    """All processes, from the first one's side. A context: the others end with it."""

    def __enter__(self) -> Crew:
        _join()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: Any
    ) -> None:
        # Ours are raised between steps, where the others listen. After any other this process
        # ends, and its sockets tell them.
        if error is None or isinstance(error, QcrdError):
            _tell(None)
            dist.destroy_process_group()

    def begin(self, update: Update) -> None:
        """Give all others a copy of the student and its optimizer as they stand."""
        buffer = io.BytesIO()
        torch.save(update, buffer)
        _tell(buffer.getvalue())

    def backward(
        self, update: Update, batch: Sequence[Lesson], scores: Scores, seed: int
    ) -> dict[str, float]:
        """`update`'s gradients over all of `batch`, and the terms of its loss."""
        size = dist.get_world_size()
        shares = []
        for rank in range(size):
            part = list(batch[rank::size])
            known = {r.id for lesson in part for r in (*lesson.positives, *lesson.negatives)}
            mine = {key: scores[key] for key in known & scores.keys()}
            shares.append(Share(part, mine, seed + rank))
        _tell(shares)
        return _backward(update, shares[0])

    def apply(self, update: Update, rate: float) -> None:
        _tell(Apply(rate))
        update.apply(rate)


def follow(device: str) -> None:
    """What every process but the first does, until the first one is done."""
    _join()
    update: Update | None = None
    while (told := _told()) is not None:
        if isinstance(told, bytes):
            # The first process of our own run made these bytes: whole objects are safe to load.
            update = torch.load(io.BytesIO(told), map_location=device, weights_only=False)
            continue
        assert update is not None
        if isinstance(told, Apply):
            update.clip()
            update.apply(told.rate)
        else:
            _backward(update, told[dist.get_rank()])
    dist.destroy_process_group()


def _join() -> None:
    # Counts and messages go by gloo; gradients by NCCL where they lie on GPUs.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE)


def _tell(message: Any) -> None:
    dist.broadcast_object_list([message], src=0, device=torch.device("cpu"))


def _told() -> Any:
    box: list[Any] = [None]
    dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def _backward(update: Update, share: Share) -> dict[str, float]:
    student = update.student
    before = student.flops
    terms = update.gradients(share.batch, share.scores, share.seed, summed=_summed)
    if terms.total.requires_grad:
        terms.total.backward()
    pending = []
    for parameter in update.parameters():
        if parameter.grad is None:  # nothing of this share went through it
            parameter.grad = torch.zeros_like(parameter)
        pending.append(dist.all_reduce(parameter.grad, async_op=True))
    for work in pending:
        work.wait()
    names = sorted(terms.parts)
    sums = torch.tensor([*(terms.parts[n] for n in names), student.flops - before]).double()
    dist.all_reduce(sums)
    student.flops = before + float(sums[-1])
    return dict(zip(names, sums.tolist(), strict=False))


def _summed(count: float) -> float:
    total = torch.tensor(float(count), dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)
