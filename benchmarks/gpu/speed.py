"""Speed: what steps cost on a GPU, for decoders of .135, 1 and 8 B parameters with random weights.

Questions and rationales have just as many words, and so tokens, as is said: a batch's shapes are
those of every other, and what is compiled for the first serves them all.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import models
from benchmarks.gpu.parity import MARGIN
from benchmarks.gpu.plain_training import measure_plain
from benchmarks.gpu.results import Part
from benchmarks.gpu.timing import describe_rate, time_steps
from qcrd.method.student.causal import CausalStudent
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.schedule import make_schedule
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import Hyperparameters, LossSpec

SECONDS = 360.0
MAX_STEPS = 20


@dataclass(frozen=True)
class Case:
    """A student and a batch of `batch` questions."""

    size: str
    batch: int
    lora: bool = False
    question_words: int = 64
    rationale_words: int = 128
    positives: int = 5
    negatives: int = 1
    block_attention: bool = True

    def make_student(self, device: str) -> CausalStudent:
        student = models.make_sized_student(
            self.size, device, lora=self.lora,
            question_tokens=self.question_words + 16, target_tokens=self.rationale_words + 8,
        )  # fmt: skip
        student.block_attention = student.block_attention and self.block_attention
        return student

    def make_batch(self) -> list[TrainingExample]:
        return models.make_examples(
            self.batch, even=True, question_words=self.question_words,
            rationale_words=self.rationale_words,
            positives=self.positives, negatives=self.negatives,
        )  # fmt: skip


CASES = {
    "0.135B": Case("0.135B", 32),
    "0.135B-sdpa": Case("0.135B", 32, block_attention=False),
    "1B": Case("1B", 16),
    "8B-lora": Case("8B", 8, lora=True),
    **{f"length-{n}": Case("0.135B", 8, rationale_words=n) for n in (128, 512, 1024, 2048)},
    **{f"candidates-{n}": Case("0.135B", 16, positives=n) for n in (1, 3, 5, 10)},
}
REHEARSED_CASES = {
    "0.135B": Case("tiny", 2, question_words=8, rationale_words=8, positives=2),
    "8B-lora": Case("tiny", 2, lora=True, question_words=8, rationale_words=8, positives=2),
    **{f"length-{n}": Case("tiny", 2, question_words=8, rationale_words=n) for n in (8, 16)},
    **{f"candidates-{n}": Case("tiny", 2, rationale_words=8, positives=n) for n in (1, 2)},
}


def list_parts(device: str, peak_flops: float | None, *, rehearsed: bool) -> list[Part]:
    cases = REHEARSED_CASES if rehearsed else CASES
    most = 1 if rehearsed else MAX_STEPS
    return [
        Part(
            name, partial(measure, case, device, peak_flops, max_steps=most), 5 if rehearsed else 45
        )
        for name, case in cases.items()
    ]


def measure(case: Case, device: str, peak_flops: float | None, *, max_steps: int) -> dict[str, Any]:
    """Steps of DSS and QCRD, and of a plain training of DSS's targets; or that it does not fit."""
    found: dict[str, Any] = {"case": vars(case)}
    try:
        student = case.make_student(device)
        found["parameters"] = sum(p.numel() for p in student.model.parameters())
        found["trained"] = sum(p.numel() for p in student.model.parameters() if p.requires_grad)
        found["block_attention"] = student.block_attention
    except torch.OutOfMemoryError as error:
        return {**found, "skipped": _tell_memory(error)}
    batch = case.make_batch()
    for name, measure_one in (
        ("dss", measure_step),
        ("qcrd", measure_step),
        ("plain", measure_plain),
    ):
        try:
            found[name] = measure_one(student, batch, name, peak_flops, max_steps)
        except torch.OutOfMemoryError as error:
            found[name] = {"skipped": _tell_memory(error)}
        student.model.zero_grad(set_to_none=True)
        _free(device)
    del student
    _free(device)
    return {**found, **compute_ratios(found)}


def _tell_memory(error: torch.OutOfMemoryError) -> str:
    return f"does not fit: {str(error).splitlines()[0][:200]}"


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def compute_ratios(found: dict[str, Any]) -> dict[str, float]:
    """QCRD's step over DSS's in time, and the plain training's of the same questions over DSS's."""

    def seconds(name: str) -> float | None:
        value: float | None = found[name].get("seconds")
        return value

    dss, qcrd, plain = seconds("dss"), seconds("qcrd"), seconds("plain")
    ratios = {}
    if dss and qcrd:
        ratios["qcrd_over_dss"] = qcrd / dss
    if dss and plain:
        ratios["plain_over_dss"] = plain / dss
    return ratios


def measure_step(
    student: CausalStudent,
    batch: list[TrainingExample],
    method: str,
    peak_flops: float | None,
    max_steps: int,
) -> dict[str, Any]:
    """Rate, peak memory and utilisation of whole steps, the optimizer included."""
    spec = MethodSpec(
        loss=LossSpec(delta=MARGIN), hyperparameters=Hyperparameters(batch_size=len(batch))
    )
    step = OptimizerStep(student, make_schedule(method, spec, n_examples=len(batch), seed=0))
    scores = {r.id: 0.7 for e in batch for r in (*e.positives, *e.negatives)}

    def run(seed: int = 0) -> None:
        step.backward(batch, scores, seed)
        step.clip_gradients()
        step.apply(1e-4)

    with counted_head(student) as head:
        flops, tokens = student.flops, student.tokens
        run()
        flops, tokens = student.flops - flops, student.tokens - tokens
    timed = time_steps(run, student.device, max_steps)
    work = count_model_flops(student, flops, tokens, head)
    return describe_rate(timed, tokens, work, peak_flops)


class HeadRows:
    """Rows that the output head computed, with gradients and without."""

    trained = scored = 0


@contextmanager
def counted_head(student: CausalStudent) -> Iterator[HeadRows]:
    rows = HeadRows()

    def count(_: Any, arguments: tuple[Tensor, ...], __: Any) -> None:
        n = arguments[0].flatten(0, -2).shape[0]
        if torch.is_grad_enabled():
            rows.trained += n
        else:
            rows.scored += n

    hook = student.model.get_output_embeddings().register_forward_hook(count)
    try:
        yield rows
    finally:
        hook.remove()


def count_model_flops(student: CausalStudent, flops: float, tokens: float, head: HeadRows) -> float:
    """6 operations per parameter and token where it is trained, 4 where it is frozen but passed
    through backwards, 2 where a candidate is only scored; the head by the rows it computes, and
    attention's own products not at all.

    `flops` counts 6 for a token with a backward pass and 2 without, which tells how many had one.
    """
    model = student.model
    embedding, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    total = sum(p.numel() for p in model.parameters())
    per_token = total if embedding is output else total - embedding.numel()
    with_backward = (flops / per_token - 2 * tokens) / 4
    body_trained = sum(
        p.numel()
        for p in model.parameters()
        if p.requires_grad and p is not embedding and p is not output
    )
    body = total - embedding.numel() - (0 if embedding is output else output.numel())
    body_cost = 6 * body_trained + 4 * (body - body_trained)
    head_cost = (6 if output.requires_grad else 4) * output.numel()
    trained = with_backward * body_cost + head.trained * head_cost
    return trained + 2 * (tokens - with_backward) * body + 2 * head.scored * output.numel()
