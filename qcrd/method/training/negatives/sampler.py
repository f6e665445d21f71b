"""Negative sampler: draws rationales from the student's weights of `lag` iterations ago.

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
from qcrd.method.training.negatives.sample_filter import SampledRationales
from qcrd.records.rationales import RationaleSource

POLL_SECONDS = 0.5
"""Seconds between two checks whether the work is still needed."""
JOIN_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class NegativeSamplingParams:
    """`n` explanations for each (id, text) of `questions`, at most `max_new_tokens` long. `tag`
    sets their ids apart from other iterations'."""

    questions: tuple[tuple[str, str], ...]
    n: int
    temperature: float
    top_p: float
    max_new_tokens: int
    seed: int
    tag: str
    source: RationaleSource


NegativeSampleRequest = tuple[Weights, NegativeSamplingParams]
"""Samples to draw from the student with these weights."""


class NegativeSampler(ABC):
    """Draws samples from earlier student weights. `flops` counts the work of used samples."""

    flops: float

    @abstractmethod
    def prefetch(self, requests: Sequence[NegativeSampleRequest]) -> None:
        """Announce the next `sample` call; a sampler may start on it."""

    @abstractmethod
    def sample(self, requests: Sequence[NegativeSampleRequest]) -> SampledRationales:
        """The samples of all orders, by question."""

    @abstractmethod
    def close(self) -> None:
        """Release its resources; it cannot be used again."""


def copy_student(student: Student) -> Student:
    """A student with a model of its own, equal to `student`'s; what is never trained they share."""
    replica = copy.copy(student)
    frozen = [p for p in student.model.parameters() if not p.requires_grad]
    replica.model = copy.deepcopy(student.model, {id(p): p for p in frozen})
    return replica


def never_interrupt() -> None:
    """A `check` for callers that are never interrupted."""


class InlineNegativeSampler(NegativeSampler):
    """A second student in this process, made when first needed, so that sampling never disturbs
    training. `check` runs between batches; what it raises ends the sampling. `is_copy`: the given
    student is that second one."""

    def __init__(
        self,
        student: Student,
        check: Callable[[], None] = never_interrupt,
        *,
        is_copy: bool = False,
    ) -> None:
        self._student = student
        self._check = check
        self._replica = student if is_copy else None
        self.flops = 0.0

    def prefetch(self, requests: Sequence[NegativeSampleRequest]) -> None:
        """Nothing is begun: it would take the training's own time."""

    def sample(self, requests: Sequence[NegativeSampleRequest]) -> SampledRationales:
        if self._replica is None:
            self._replica = copy_student(self._student)
        replica = self._replica
        replica.flops = 0.0
        samples = _sample_requests(replica, requests, self._check)
        self.flops += replica.flops
        return samples

    def close(self) -> None:
        """The second student goes with its last reference."""


class ProcessNegativeSampler(NegativeSampler):
    """A second student in a process of its own on `device`, which samples while training goes on.

    The process ends with this one, however that ends; it calls `before_batch`, which is pickled,
    before each batch. `Transient` when it dies first: the job's
    stage is tried again from its last checkpoint.
    """

    def __init__(
        self,
        student: Student,
        device: str,
        check: Callable[[], None] = never_interrupt,
        before_batch: Callable[[], None] = never_interrupt,
    ) -> None:
        self.flops = 0.0
        self._check = check
        self._pending: list[NegativeSamplingParams] = []
        spawn = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        self._pipe, child_pipe = spawn.Pipe()
        self._process = spawn.Process(
            target=_run_sampler_process,
            args=(child_pipe, device, torch.get_num_threads(), before_batch),
            daemon=True,
        )
        self._process.start()
        child_pipe.close()
        self._send(_serialize_student(student))

    def prefetch(self, requests: Sequence[NegativeSampleRequest]) -> None:
        params = [one for _, one in requests]
        if self._pending == params:
            return
        if self._pending:
            self._receive()  # another order was announced
        # Contiguous: safetensors takes no views.
        self._send([(pack({k: v.contiguous() for k, v in w.items()}), one) for w, one in requests])
        self._pending = params

    def sample(self, requests: Sequence[NegativeSampleRequest]) -> SampledRationales:
        self.prefetch(requests)
        samples, flops = self._receive()
        self.flops += flops
        return samples

    def close(self) -> None:
        self._pipe.close()
        self._process.kill()  # it has no state worth keeping
        self._process.join()

    def _receive(self) -> tuple[SampledRationales, float]:
        try:
            while not self._pipe.poll(POLL_SECONDS):
                self._check()
            result: tuple[SampledRationales, float] = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._make_died_error() from error
        self._pending = []
        return result

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError as error:
            raise self._make_died_error() from error

    def _make_died_error(self) -> Transient:
        self._process.join(JOIN_TIMEOUT_SECONDS)
        return Transient(
            f"the sampler's process ended with status {self._process.exitcode}; "
            "QCRD_SAMPLER=inline samples in the training process",
            code="sampler_died",
        )


def _sample_requests(
    student: Student, requests: Sequence[NegativeSampleRequest], check: Callable[[], None]
) -> SampledRationales:
    samples: SampledRationales = {}
    for weights, params in requests:
        weight_history.load_weights(student, weights)
        sampled = weight_history.sample_rationales(student, **vars(params), check=check)
        samples |= {
            key: (*samples.get(key, ()), *rationales) for key, rationales in sampled.items()
        }
    return samples


def _serialize_student(student: Student) -> bytes:
    """The student as bytes: tensors shared between processes would need more /dev/shm than a
    container has."""
    replica = copy.copy(student)
    replica.flops = 0.0
    buffer = io.BytesIO()
    torch.save(replica, buffer)
    return buffer.getvalue()


def _run_sampler_process(
    pipe: Connection, device: str, threads: int, before_batch: Callable[[], None]
) -> None:
    """Sample what comes until the other end is gone."""
    torch.set_num_threads(threads)
    try:
        # Our own bytes, from our own parent: unpickling whole objects is safe here.
        student: Student = torch.load(
            io.BytesIO(pipe.recv()), map_location=device, weights_only=False
        )
        student.model.to(device)
        while True:
            requests = [(unpack(weights), wanted) for weights, wanted in pipe.recv()]
            student.flops = 0.0
            pipe.send((_sample_requests(student, requests, before_batch), student.flops))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
