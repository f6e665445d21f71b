"""The plan of a job: what it needs, whether that fits, and what to lower when it does not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qcrd.planning.architectures import Architecture, count_architecture, count_encoder
from qcrd.planning.memory import Memory, count_trained, plan_memory
from qcrd.planning.steps import (
    PEAK_FLOPS,
    UTILISATION,
    StepTokens,
    count_step_flops,
    count_step_tokens,
)
from qcrd.records.base_models import gets_new_decoder
from qcrd.records.specs.spec import JobSpec, MethodName, MethodSpec
from qcrd.records.specs.training_spec import LoraSpec

LORA = LoraSpec()
"""What is tried where a job has no adapters and does not fit."""


@dataclass(frozen=True)
class Machine:
    """`processes` with a card each, a student cut up among `shards` of them. `gpu_bytes` of a card;
    `tokens_per_second`: measured, of all cards; None: assumed from the work. `has_bf16`: whether a
    spec that leaves its precision open is trained in it."""

    processes: int = 1
    shards: int = 1
    gpu_bytes: int | None = None
    tokens_per_second: float | None = None
    has_bf16: bool = True


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a question, a rationale and a label, which time is computed from. Memory is
    computed from the spec's limits."""

    question: int
    rationale: int
    label: int


@dataclass(frozen=True)
class Plan:
    architecture: Architecture
    memory: Memory
    """At the spec's limits."""
    tokens: StepTokens
    """Of a mean step."""
    steps: int | None
    tokens_per_second: float
    step_seconds: float
    fits: bool | None
    advice: tuple[str, ...]
    """What alone would make it fit; where nothing does, what comes nearest."""

    @property
    def seconds(self) -> float | None:
        return None if self.steps is None else self.steps * self.step_seconds


def make_plan(
    spec: JobSpec,
    config: Mapping[str, Any],
    machine: Machine,
    lengths: Lengths,
    *,
    questions: int | None = None,
    judge_config: Mapping[str, Any] | None = None,
) -> Plan:
    """The plan of `spec` with the base of `config`. `Invalid` for a model that cannot be counted.

    `questions`: those that are trained on, if they are known. `judge_config`: of the judge's
    encoder, if it is known.
    """
    settings, hyper = spec.settings, spec.settings.hyperparameters
    architecture = count_architecture(config, decoder_layers=settings.student.decoder_layers)
    memory = _plan_memory(spec, settings, config, machine, judge_config)
    tokens = count_step_tokens(settings, spec.method, **vars(lengths))
    flops = count_step_flops(architecture, tokens, lora=settings.student.lora is not None)
    speed = machine.tokens_per_second or (
        tokens.read * PEAK_FLOPS * UTILISATION * machine.processes / flops
    )
    fits = None if machine.gpu_bytes is None else memory.fits(machine.gpu_bytes)
    return Plan(
        architecture,
        memory,
        tokens,
        None if questions is None else hyper.get_total_steps(questions),
        speed,
        tokens.read / speed,
        fits,
        tuple(_advise(spec, config, machine)) if fits is False else (),
    )


def _plan_memory(
    spec: JobSpec,
    settings: MethodSpec,
    config: Mapping[str, Any],
    machine: Machine,
    judge_config: Mapping[str, Any] | None = None,
) -> Memory:
    hyper, is_encoder = settings.hyperparameters, gets_new_decoder(config)
    architecture = count_architecture(config, decoder_layers=settings.student.decoder_layers)
    has_judge = spec.method is MethodName.QCRD and judge_config is not None
    return plan_memory(
        architecture,
        settings,
        spec.method,
        count_step_tokens(
            settings,
            spec.method,
            question=hyper.max_question_tokens,
            rationale=hyper.max_rationale_tokens,
            label=hyper.max_label_tokens,
        ),
        trained=count_trained(architecture, settings, is_encoder=is_encoder),
        judge=count_encoder(judge_config) if has_judge and judge_config else None,
        shards=machine.shards,
        processes=machine.processes,
        bf16=hyper.precision == "bf16" or (machine.has_bf16 and hyper.precision == "auto"),
    )


def _advise(spec: JobSpec, config: Mapping[str, Any], machine: Machine) -> Iterator[str]:
    """Each change that makes the job fit by itself."""
    path, found = f"method.{spec.method}", False
    for change, settings, other in _iter_changes(
        spec, machine, is_encoder=gets_new_decoder(config)
    ):
        memory = _plan_memory(spec, settings, config, other)
        if memory.fits(machine.gpu_bytes or 0):
            found = True
            yield change.format(path=path)
    if not found:
        yield "no single change is enough: take a smaller base, a larger card, or several of these"
        part, _ = max(_plan_memory(spec, spec.settings, config, machine).card.items(), key=_by_size)
        yield f"the largest part is {part}"


def _by_size(part: tuple[str, int]) -> int:
    return part[1]


def _iter_changes(
    spec: JobSpec, machine: Machine, *, is_encoder: bool
) -> Iterator[tuple[str, MethodSpec, Machine]]:
    """What could be lowered, in words, with the settings and the machine that it leads to; of each
    kind from the smallest change on."""
    settings, hyper = spec.settings, spec.settings.hyperparameters
    for name in ("batch_size", "max_rationale_tokens", "max_question_tokens"):
        value: int = getattr(hyper, name)
        for divisor in (2, 4, 8):
            if value // divisor >= (1 if name == "batch_size" else 8):
                lowered = hyper.model_copy(update={name: value // divisor})
                words = f"`{{path}}.hyperparameters.{name}: {value // divisor}` (now {value})"
                yield words, settings.model_copy(update={"hyperparameters": lowered}), machine
    if settings.student.lora is None and not is_encoder:
        adapted = settings.student.model_copy(update={"lora": LORA})
        words = f"`{{path}}.student.lora: {{{{rank: {LORA.rank}}}}}`"
        yield words, settings.model_copy(update={"student": adapted}), machine
    if not settings.student.gradient_checkpointing:
        recomputed = settings.student.model_copy(update={"gradient_checkpointing": True})
        words = "`{path}.student.gradient_checkpointing: true`, which takes longer"
        yield words, settings.model_copy(update={"student": recomputed}), machine
    for count in (2, 4, 8):
        if count > machine.processes:
            more = Machine(count, count, machine.gpu_bytes)
            yield f"QCRD_PROCESSES={count} and QCRD_SHARDS={count}, a card each", settings, more
