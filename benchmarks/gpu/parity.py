"""Parity: what a device computes beside what a CPU does, of teacher, judge, students, attention.

On a CPU both sides are its own, so that a rehearsal goes the same way.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import models
from qcrd.method.judge.model import Judge, train_judge
from qcrd.method.judge.training_pairs import make_training_pair
from qcrd.method.prompts import EXPLAIN_PREFIX
from qcrd.method.student.causal import CausalStudent
from qcrd.method.student.targets import Target
from qcrd.method.training.optimizer_step import OptimizerStep
from qcrd.method.training.schedule import TrainingSchedule, make_schedule
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.specs.training_spec import (
    Hyperparameters,
    JudgeSpec,
    LossSpec,
    ManyToOneScheme,
    NegativeSpec,
)
from services.teacher.engines.base import SamplingParams, ValidGenerateRequest
from services.teacher.engines.transformers.engine import TransformersEngine
from services.teacher.engines.transformers.weights import Precision

FP32_TOLERANCE = 1e-3
"""Of a loss after a few steps of AdamW, in nats: products are summed in another order."""
BF16_TOLERANCE = 0.1
"""The same where matrix products are in bf16, of 8 bits, and fp32 is the reference."""
LOGPROB_TOLERANCE = 1e-3
STEPS = 4
MARGIN = 50.0
"""δ under which every negative is in force, so that no pick depends on rounding."""


def make_plan(
    method: str = "qcrd", *, n_examples: int = 8, iterations: int = 3
) -> TrainingSchedule:
    """A short training whose terms are all in force, without a choice between candidates."""
    spec = MethodSpec(
        loss=LossSpec(scheme=ManyToOneScheme.MEAN, delta=MARGIN),
        negatives=NegativeSpec(lag=1),
        hyperparameters=Hyperparameters(
            batch_size=4, iterations=iterations, iteration_steps=2, learning_rate=1e-3,
            max_rationale_tokens=16,
        ),
    )  # fmt: skip
    return make_schedule(method, spec, n_examples=n_examples, seed=5)


def train_steps(step: OptimizerStep, *, steps: int = STEPS) -> list[dict[str, float]]:
    """Losses and gradient norms of the first steps, on the same questions with the same scores."""
    examples = models.make_examples(8)
    scores = {r.id: 0.7 for e in examples for r in (*e.positives, *e.negatives)}
    curve = []
    for number in range(steps):
        start = 4 * (number % 2)
        losses = step.backward(examples[start : start + 4], scores, seed=number)
        curve.append({**losses, "norm": step.clip_gradients()})
        step.apply(1e-3)
    return curve


def compare_curves(
    one: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]], tolerance: float
) -> dict[str, Any]:
    """The largest difference of a loss; norms are told, and bound by no more than their size."""
    losses = [abs(a[n] - b[n]) for a, b in zip(one, other, strict=True) for n in a if n != "norm"]
    norms = [abs(a["norm"] - b["norm"]) / a["norm"] for a, b in zip(one, other, strict=True)]
    return {
        "ok": max(losses) <= tolerance,
        "max_loss_difference": max(losses),
        "max_norm_difference_relative": max(norms),
        "tolerance": tolerance,
        "steps": len(one),
    }


def check_trainer(device: str, kind: str, *, lora: bool) -> dict[str, Any]:
    """A student's steps in fp32 against fp32 on the CPU, and in bf16 against the same."""
    curves = {}
    for name, place, bf16 in (
        ("cpu", "cpu", False),
        ("fp32", device, False),
        ("bf16", device, True),
    ):
        student = models.make_tiny_student(kind, place, lora=lora)
        student.bf16 = bf16
        curves[name] = train_steps(OptimizerStep(student, make_plan()))
    fp32 = compare_curves(curves["cpu"], curves["fp32"], FP32_TOLERANCE)
    bf16 = compare_curves(curves["cpu"], curves["bf16"], BF16_TOLERANCE)
    falls = curves["fp32"][-1]["loss"] < curves["fp32"][0]["loss"]
    return {
        "ok": fp32["ok"] and bf16["ok"] and falls,
        "loss_falls": falls,
        "fp32": fp32,
        "bf16": bf16,
    }


def check_picks(device: str) -> dict[str, Any]:
    """Of how many questions the best candidate is another than on the CPU. Scores are in bf16 where
    that is faster: told, and no failure."""
    examples = models.make_examples(16)
    prompts = [EXPLAIN_PREFIX + example.text for example in examples]
    targets = [Target(r.text) for example in examples for r in example.positives]
    n = len(examples[0].positives)
    index = [i for i in range(len(examples)) for _ in range(n)]
    picks = []
    for place in ("cpu", device):
        student = models.make_tiny_student("llama", place)
        scores = student.mean_cross_entropy(prompts, index, targets).cpu()
        picks.append(scores.view(-1, n).argmin(1))
    return {"questions": len(examples), "other_picks": int((picks[0] != picks[1]).sum())}


def check_attention(device: str, kind: str) -> dict[str, Any]:
    """FlexAttention against SDPA on the same device, for batches of several shapes. The seconds are
    of the first call of each, which compiles. On a CPU, whose kernels take few shapes and have no
    backward pass, nothing is compiled and there are no gradients."""
    on_cpu = device == "cpu"
    student = models.make_tiny_student(kind, device)
    assert isinstance(student, CausalStudent)
    differences, gradient_differences, seconds = [], [], []
    for words in (8, 24, 40, 56):
        examples = models.make_examples(4, question_words=words, rationale_words=words)
        prompts = [EXPLAIN_PREFIX + example.text for example in examples]
        targets = [Target(r.text) for example in examples for r in example.positives]
        index = [i for i, example in enumerate(examples) for _ in example.positives]
        found = []
        for is_block in (False, True):
            student.block_attention = is_block
            started = time.perf_counter()
            with (
                torch.compiler.set_stance("force_eager" if on_cpu else "default"),
                torch.set_grad_enabled(not on_cpu),
            ):
                total, _ = student.cross_entropy(prompts, index, targets)
                norm = 0.0 if on_cpu else _take_gradient_norm(student, total)
            seconds.append(round(time.perf_counter() - started, 2))
            found.append((total.detach().cpu(), norm))
        (plain, plain_norm), (block, block_norm) = found
        differences.append(float((plain - block).abs().max()))
        gradient_differences.append(abs(plain_norm - block_norm) / max(plain_norm, 1e-9))
    is_close = max(differences) <= FP32_TOLERANCE * 10 and max(gradient_differences) <= 0.01
    return {
        "ok": is_close,
        "max_loss_difference": max(differences),
        "max_gradient_norm_difference_relative": max(gradient_differences),
        "seconds_sdpa": seconds[::2],
        "seconds_flex": seconds[1::2],
    }


def _take_gradient_norm(student: CausalStudent, total: torch.Tensor) -> float:
    student.model.zero_grad(set_to_none=True)
    total.sum().backward()
    gradients = [p.grad for p in student.model.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


def check_judge(device: str) -> dict[str, Any]:
    """Losses of the judge's training, and its scores behind it."""
    examples = models.make_examples(8)
    pairs = [make_training_pair(e.text, e.positives, e.negatives) for e in examples]
    asked = [(e.text, r.text) for e in examples for r in (*e.positives, *e.negatives)]
    spec = JudgeSpec(batch_size=4, hidden=16, max_tokens=64)
    found = []
    for place in ("cpu", device):
        encoder, tokenizer = models.make_tiny("bert"), models.make_tokenizer()
        judge = Judge(encoder, tokenizer, hidden=16, max_tokens=64).to(place)
        losses = list(train_judge(judge, pairs, spec, steps=STEPS, learning_rate=1e-3, seed=1))
        found.append((losses, judge.predict_scores(asked)))
    (cpu_losses, cpu_scores), (losses, scores) = found
    differences = {
        "max_loss_difference": max(abs(a - b) for a, b in zip(cpu_losses, losses, strict=True)),
        "max_score_difference": max(abs(a - b) for a, b in zip(cpu_scores, scores, strict=True)),
    }
    return {"ok": max(differences.values()) <= FP32_TOLERANCE, **differences}


def check_teacher(device: str, kind: str) -> dict[str, Any]:
    """The `local` engine: greedy tokens and their log-probabilities in fp32; samples of one seed
    and greedy tokens in bf16 are counted."""
    with tempfile.TemporaryDirectory() as folder:
        base = models.save_base(Path(folder), kind)
        cpu = asyncio.run(_generate(base, "cpu", "float32"))
        there = asyncio.run(_generate(base, device, "float32"))
        bf16 = asyncio.run(_generate(base, device, "bfloat16"))
    pairs = list(zip(cpu["greedy"], there["greedy"], strict=True))
    same = sum(_ids(a) == _ids(b) for a, b in pairs)
    logprobs = [
        abs(x[1] - y[1]) for a, b in pairs if _ids(a) == _ids(b) for x, y in zip(a, b, strict=True)
    ]
    farthest = max(logprobs, default=float("inf"))
    return {
        "ok": same == len(pairs) and farthest <= LOGPROB_TOLERANCE,
        "prompts": len(pairs),
        "same_greedy": same,
        "max_logprob_difference": farthest,
        "same_samples": sum(
            _ids(a) == _ids(b) for a, b in zip(cpu["sampled"], there["sampled"], strict=True)
        ),
        "same_greedy_bf16": sum(
            _ids(a) == _ids(b) for a, b in zip(cpu["greedy"], bf16["greedy"], strict=True)
        ),
    }


Generated = list[tuple[int, float]]


def _ids(tokens: Generated) -> list[int]:
    return [token for token, _ in tokens]


async def _generate(base: Path, device: str, precision: Precision) -> dict[str, list[Generated]]:
    """Tokens and log-probabilities of prompts that run side by side: greedy, and by a seed."""
    engine = TransformersEngine(
        base, "tiny", threads=1, slots=4, max_total_tokens=96, max_input_tokens=None,
        precision=precision, device=device,
    )  # fmt: skip
    await engine.start()
    try:
        prompts = [example.text for example in models.make_examples(4)]
        sampled = [SamplingParams(do_sample=True, seed=seed, temperature=0.7) for seed in range(4)]
        return {
            "greedy": await _collect(engine, prompts, [SamplingParams()] * len(prompts)),
            "sampled": await _collect(engine, prompts, sampled),
        }
    finally:
        await engine.close()


async def _collect(
    engine: TransformersEngine, prompts: Sequence[str], samplings: Sequence[SamplingParams]
) -> list[Generated]:
    async def generate(prompt: str, sampling: SamplingParams) -> Generated:
        ids = tuple(piece.id for piece in await engine.tokenize(prompt))
        request = ValidGenerateRequest(prompt, ids, 16, sampling)
        return [(token.id, token.logprob or 0.0) async for token in engine.submit(request)]

    return list(await asyncio.gather(*map(generate, prompts, samplings)))
