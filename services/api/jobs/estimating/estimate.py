"""Estimates a job's teacher usage, cost and time before anything is spent.

Nothing is generated. `basis` explains every figure; a figure is null where nothing is known.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import BaseModel

from qcrd.method.training.schedule import UNTRAINED_ONLY_ADVICE, compute_untrained_share
from qcrd.records.specs.spec import JobSpec
from services.api.assembling import sampling_plan
from services.api.assembling.batches.choose import asks_by_batch
from services.api.dependencies import Gateway
from services.api.files import service as files
from services.api.jobs.base_defaults import choose_defaults
from services.api.jobs.checks.validation import validate_job_spec
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.create import parse_request
from services.api.jobs.estimating import timings
from services.api.jobs.estimating.prompt_lengths import LengthEstimate
from services.api.jobs.estimating.teacher_demand import measure_demand
from services.api.jobs.shared_rationales import check_shared_set
from services.api.settings import TeacherConfig


class TeacherEstimate(BaseModel):
    """`outputs` are wanted, `reused` of them paid for already, `asked` the rest. Tokens and cost
    are of these; `at_most` says what no job of this spec can exceed."""

    outputs: int = 0
    reused: int = 0
    asked: int = 0
    prompt_tokens: int = 0
    prompt_tokens_at_most: int = 0
    completion_tokens: int | None = 0
    completion_tokens_at_most: int = 0
    cost: float | None = None
    cost_at_most: float | None = None
    currency: str | None = None
    basis: list[str] = []


class BudgetEstimate(BaseModel):
    """`fits` None: expected to fit, but not certain."""

    teacher_tokens: int | None
    cost: float | None
    fits: bool | None
    message: str


class JobEstimate(BaseModel):
    object: str = "fine_tuning.job.estimate"
    teacher: TeacherEstimate
    budget: BudgetEstimate
    training_steps: int
    untrained_share: float | None = None
    """Share of the training, weighted by its learning rate, whose negatives are samples of the
    untrained student; None where none are sampled."""
    assembling_seconds: float | None
    training_seconds: float | None
    lengths: LengthEstimate = LengthEstimate()
    """Which lines the teacher will refuse as too long."""
    basis: list[str]


def estimate_job(gateway: Gateway, body: dict[str, Any], cache: ValidationCache) -> JobEstimate:
    """`Invalid` where creating the job would be refused, but for a budget that is too small for any
    request: that is told like one that is too small for all of them."""
    spec, _ = choose_defaults(gateway, parse_request(gateway, body))
    validate_job_spec(spec, gateway, cache)
    check_shared_set(spec, gateway.jobs)
    fields = spec.settings.task.fields
    questions = sum(1 for _ in files.iter_rows(gateway.store, spec.training_file, fields))
    teacher = gateway.settings.teachers.teachers.get(spec.settings.teacher)
    uses_teacher = (
        sampling_plan.asks_teacher(spec) and spec.knowledge_of is None and teacher is not None
    )
    teacher_estimate, lengths = (
        _estimate_teacher(gateway, spec, teacher)
        if uses_teacher and teacher
        else (TeacherEstimate(), LengthEstimate())
    )
    hyperparameters = spec.settings.hyperparameters
    held_out = 0 if spec.validation_file else hyperparameters.get_holdout_size(questions)
    n_examples = max(1, questions - held_out)
    steps = hyperparameters.get_total_steps(n_examples)
    assembling, training, basis = _estimate_seconds(gateway, spec, teacher_estimate, steps)
    if teacher_estimate.asked and teacher is not None and asks_by_batch(spec, teacher):
        assembling = None  # nobody can say when a batch ends
    untrained_share = compute_untrained_share(spec.method.value, spec.settings, n_examples)
    if untrained_share == 1.0:
        basis.append(
            "all of the training learns from negatives of the untrained student: "
            f"{UNTRAINED_ONLY_ADVICE}"
        )
    return JobEstimate(
        teacher=teacher_estimate,
        budget=_estimate_budget(spec, teacher_estimate),
        training_steps=steps,
        untrained_share=untrained_share,
        assembling_seconds=assembling,
        training_seconds=training,
        lengths=lengths,
        basis=basis,
    )


def _estimate_teacher(
    gateway: Gateway, spec: JobSpec, teacher: TeacherConfig
) -> tuple[TeacherEstimate, LengthEstimate]:
    demand = asyncio.run(measure_demand(gateway, spec, teacher))
    max_completion_tokens = spec.settings.rationales.max_new_tokens * demand.missing
    lengths = [generation.completion_tokens for generation in demand.cached]
    basis = list(demand.basis)
    completion_tokens = None
    if not demand.missing:
        completion_tokens = 0
    elif lengths:
        completion_tokens = round(demand.missing * sum(lengths) / len(lengths))
        basis.append(f"answers as long as the {len(lengths)} that this teacher gave before")
    else:
        basis.append("no answer of this teacher under this sampling is known: only the most is")
    if teacher.prices is not None:
        basis.append(f"prices of {teacher.prices.source}")
    price_factor = 1.0
    if demand.missing and asks_by_batch(spec, teacher):
        price_factor = teacher.batch_factor
        basis.append(f"by batch: at {price_factor:g} of the price, within a day")
    estimate = TeacherEstimate(
        outputs=demand.requested,
        reused=demand.requested - demand.missing,
        asked=demand.missing,
        prompt_tokens=demand.prompt_tokens,
        prompt_tokens_at_most=demand.prompt_tokens_at_most,
        completion_tokens=completion_tokens,
        completion_tokens_at_most=max_completion_tokens,
        cost=None
        if completion_tokens is None
        else _compute_cost(teacher, demand.prompt_tokens, completion_tokens, price_factor),
        cost_at_most=_compute_cost(
            teacher, demand.prompt_tokens_at_most, max_completion_tokens, price_factor
        ),
        currency=teacher.currency if teacher.prices else None,
        basis=basis,
    )
    return estimate, demand.lengths


def _compute_cost(
    teacher: TeacherConfig, prompt: int, completion: int, factor: float
) -> float | None:
    cost = teacher.compute_cost(prompt, completion)
    return None if cost is None else factor * cost


def _estimate_budget(spec: JobSpec, teacher_estimate: TeacherEstimate) -> BudgetEstimate:
    limit = spec.budget
    expected = (
        teacher_estimate.prompt_tokens + (teacher_estimate.completion_tokens or 0),
        teacher_estimate.cost,
    )
    most = (
        teacher_estimate.prompt_tokens_at_most + teacher_estimate.completion_tokens_at_most,
        teacher_estimate.cost_at_most,
    )
    unknown = teacher_estimate.completion_tokens is None
    certain = _is_within(limit.teacher_tokens, most[0]) and _is_within(limit.cost, most[1])
    likely = _is_within(limit.teacher_tokens, expected[0]) and _is_within(limit.cost, expected[1])
    if limit.teacher_tokens is None and limit.cost is None:
        fits, message = True, "no budget is set"
    elif certain:
        fits, message = True, "the budget is enough even if every answer has its full length"
    elif likely:
        fits, message = None, "not sure to be enough" if unknown else "expected to be enough"
    else:
        fits, message = False, "the job would pause before its teacher has answered everything"
    return BudgetEstimate(
        teacher_tokens=limit.teacher_tokens, cost=limit.cost, fits=fits, message=message
    )


def _is_within(limit: float | None, value: float | None) -> bool:
    return limit is None or (value is not None and value <= limit)


def _estimate_seconds(
    gateway: Gateway, spec: JobSpec, teacher_estimate: TeacherEstimate, steps: int
) -> tuple[float | None, float | None, list[str]]:
    """Seconds of assembling and of training, and the basis of each."""
    basis = []
    assembling, training = None if teacher_estimate.asked else 0.0, None
    tokens_per_second = timings.mean_tokens_per_second(gateway.shared.counters.read())
    if (
        tokens_per_second
        and teacher_estimate.asked
        and teacher_estimate.completion_tokens is not None
    ):
        assembling = round(teacher_estimate.completion_tokens / tokens_per_second, 1)
        basis.append(f"teachers wrote {tokens_per_second:.1f} tokens/s for the jobs so far")
    similar_jobs, seconds_per_step = timings.mean_seconds_per_step(gateway.jobs, spec)
    if similar_jobs:
        training = round(steps * seconds_per_step, 1)
        basis.append(
            f"{similar_jobs} {'job' if similar_jobs == 1 else 'jobs'} with this model, method and "
            "batch size took so long a step"
        )
    return assembling, training, basis
