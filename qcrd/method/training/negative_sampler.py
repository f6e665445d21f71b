"""Where the student's past self samples: in the trainer's process, or beside it in one of its own.

What is sampled is a function of weights, questions and seed, so a sampler beside the training
changes when the negatives of the next iteration are made, and nothing else.
"""

from __future__ import annotations

import copy
import io
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors.torch import load as unpack
from safetensors.torch import save as pack

from qcrd.errors import Transient
from qcrd.method.student.base import Student, Weights
from qcrd.method.training import weight_history
from qcrd.records.rationales import Rationale, RationaleSource

LOOK_SECONDS = 0.5
"""Between two looks at whether the work is still wanted."""
END_SECONDS = 5.0

Samples = dict[str, tuple[Rationale, ...]]
"""Question id -> what the student's past self said."""


@dataclass(frozen=True)
class Wanted:
    """`n` explanations for each (id, text) of `questions`, at most `max_new_tokens` long. `tag`
    sets their ids apart from other iterations'."""

    questions: tuple[tuple[str, str], ...]
    n: int
    temperature: float
    max_new_tokens: int
    seed: int
    tag: str
    source: RationaleSource


Order = tuple[Weights, Wanted]
"""What is wanted from the student with these weights."""


class Past(ABC):
    """The student's past self. `flops` counts the work of the samples that were used."""

    flops: float

    def begin(self, orders: Sequence[Order]) -> None:  # noqa: B027 - most have no use for it
        """A hint that `sample` will be asked for these next; whoever can starts on them."""

    @abstractmethod
    def sample(self, orders: Sequence[Order]) -> Samples:
        """All that was ordered, by question."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Give back what it holds; it cannot be asked again."""


def nothing() -> None:
    """For who may not be interrupted."""


class LocalPast(Past):
    """A second student in this process, made when first needed, so that sampling never disturbs
    training. `check` runs between batches; what it raises ends the sampling."""

    def __init__(self, student: Student, check: Callable[[], None] = nothing) -> None:
        self._student = student
        self._check = check
        self._twin: Student | None = None
        self.flops = 0.0

    def sample(self, orders: Sequence[Order]) -> Samples:
        twin = self.twin()
        twin.flops = 0.0
        found = _sampled(twin, orders, self._check)
        self.flops += twin.flops
        return found

    def twin(self) -> Student:
        if self._twin is None:
            self._twin = copy.copy(self._student)
            self._twin.model = copy.deepcopy(self._student.model)
        return self._twin


class ProcessPast(Past):
    """A second student in a process of its own on `device`, which samples while training goes on.

    The process ends with this one, however that ends. `Transient` when it dies first: the job's
    stage is tried again from its last checkpoint.
    """

    def __init__(self, student: Student, device: str, check: Callable[[], None] = nothing) -> None:
        self.flops = 0.0
        self._check = check
        self._under_way: list[Wanted] = []
        spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._pipe, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_serve, args=(theirs, device, torch.get_num_threads()), daemon=True
        )
        self._process.start()
        theirs.close()
        self._send(_frozen(student))

    def begin(self, orders: Sequence[Order]) -> None:
        wanted = [one for _, one in orders]
        if self._under_way == wanted:
            return
        if self._under_way:
            self._take()  # something else had been expected
        # Contiguous: safetensors takes no views.
        self._send([(pack({k: v.contiguous() for k, v in w.items()}), one) for w, one in orders])
        self._under_way = wanted

    def sample(self, orders: Sequence[Order]) -> Samples:
        self.begin(orders)
        found, flops = self._take()
        self.flops += flops
        return found

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()  # it holds nothing that anyone needs
        self._process.join()

    def _take(self) -> tuple[Samples, float]:
        try:
            while not self._pipe.poll(LOOK_SECONDS):
                self._check()
            found: tuple[Samples, float] = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        self._under_way = []
        return found

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._died() from error

    def _died(self) -> Transient:
        self._process.join(END_SECONDS)
        return Transient(
            f"the sampler's process ended with status {self._process.exitcode}; "
            "QCRD_SAMPLER=inline samples in the training process",
            code="sampler_died",
        )


def _sampled(student: Student, orders: Sequence[Order], check: Callable[[], None]) -> Samples:
    found: Samples = {}
    for weights, wanted in orders:
        weight_history.load(student, weights)
        said = weight_history.sample(student, **vars(wanted), check=check)
        found |= {key: (*found.get(key, ()), *more) for key, more in said.items()}
    return found


def _frozen(student: Student) -> bytes:
    """The student as bytes: tensors shared between processes would need more /dev/shm than a
    container has."""
    twin = copy.copy(student)
    twin.flops = 0.0
    buffer = io.BytesIO()
    torch.save(twin, buffer)
    return buffer.getvalue()


def _serve(pipe: Connection, device: str, threads: int) -> None:
    """Sample what comes until the other end is gone."""
    torch.set_num_threads(threads)
    try:
        # Our own bytes, from our own parent: unpickling whole objects is safe here.
        student: Student = torch.load(
            io.BytesIO(pipe.recv()), map_location=device, weights_only=False
        )
        student.model.to(device)
        while True:
            orders = [(unpack(weights), wanted) for weights, wanted in pipe.recv()]
            student.flops = 0.0
            pipe.send((_sampled(student, orders, nothing), student.flops))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
