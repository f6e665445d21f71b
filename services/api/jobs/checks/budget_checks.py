"""Checks of a job's budget: against one request before the job exists, against its usage later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from qcrd.errors import Invalid, QcrdError
from qcrd.records.job import Job, Usage
from qcrd.records.specs.spec import Budget, JobSpec
from qcrd.runtime.jobs.state_machine import with_changes
from qcrd.runtime.storage.store import Store
from services.api.assembling import sampling_plan
from services.api.assembling.batches.choose import asks_by_batch
from services.api.assembling.prompt_form import choose_prompt_form, list_prompt_forms
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.teacher.teacher_client import TeacherClient
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_budget import covers, describe_limits, describe_request
from services.api.assembling.tokens.token_sums import Tokens
from services.api.dependencies import Gateway
from services.api.jobs.job_prompts import find_generations, iter_prompts
from services.api.settings import TeacherConfig


def check_budget_covers_a_request(gateway: Gateway, spec: JobSpec) -> None:
    """`Invalid`, with the sum, for a budget under which not even the shortest prompt could be sent.
    A job that finds all of its answers there already needs none."""
    teacher = gateway.settings.teachers.teachers.get(spec.settings.teacher)
    if spec.budget == Budget() or teacher is None:
        return
    if spec.knowledge_of is not None or not sampling_plan.asks_teacher(spec):
        return
    shortest = _find_shortest_prompt(gateway.store, spec, teacher)
    if shortest is not None:
        asyncio.run(_check_request(gateway, spec, teacher, shortest))


def check_covers_usage(
    budget: Budget, usage: Usage, reserved: Tokens, teacher: TeacherConfig | None
) -> None:
    """`Invalid` for a budget that is exceeded already; `reserved` is what batches may cost that
    are out."""
    taken = usage.teacher_tokens + usage.uncertain + reserved.total
    if budget.teacher_tokens is not None and taken > budget.teacher_tokens:
        raise _make_exceeded_error(
            "budget.teacher_tokens",
            f"{usage.teacher_tokens:,} teacher tokens",
            f"{usage.uncertain + reserved.total:,}" if taken > usage.teacher_tokens else "",
            f"{budget.teacher_tokens:,}",
        )
    by_batch = 0.0 if teacher is None else reserved.compute_cost(teacher) or 0.0
    uncertain = (usage.uncertain_cost or 0.0) + by_batch
    if budget.cost is not None and (usage.cost or 0.0) + uncertain > budget.cost:
        raise _make_exceeded_error(
            "budget.cost",
            f"{usage.cost or 0.0:.4f} {usage.currency}",
            f"{uncertain:.4f} {usage.currency}" if uncertain else "",
            f"{budget.cost:g} {usage.currency}",
        )


def make_usage_update(gateway: Gateway, job: Job) -> Callable[[Job], Job]:
    """A change that puts what the account of `job` says into its record, which a worker that was
    killed or whose job was cancelled can no longer do."""
    account = TokenAccount(gateway.shared.generation_buffer, job)
    teacher = gateway.settings.teachers.teachers.get(job.spec.settings.teacher)

    def update(current: Job) -> Job:
        if account.is_new or teacher is None:
            return current
        return with_changes(current, usage=account.fill_usage(current.usage, teacher))

    return update


def release_uncertain_tokens(job: Job) -> Job:
    """`job`, of which nothing is uncertain that any attempt up to now has left."""
    nothing = None if job.usage.uncertain_cost is None else 0.0
    usage = job.usage.model_copy(update={"uncertain": 0, "uncertain_cost": nothing})
    return with_changes(job, usage=usage, uncertain_released=job.lease.token)


def _make_exceeded_error(param: str, spent: str, uncertain: str, limit: str) -> Invalid:
    more, way = "", "give a larger one"
    if uncertain:
        more = f" and {uncertain} more may be"
        way += ", or release the uncertain ones with `release_uncertain`"
    return Invalid(
        f"`{param}`: {spent} are spent{more}, which is more than {limit}: {way}",
        param=param,
        code="budget_exceeded",
    )


def _find_shortest_prompt(store: Store, spec: JobSpec, teacher: TeacherConfig) -> str | None:
    """In bytes; None as soon as one is short enough whatever its tokens are, since none has more
    tokens than bytes."""
    shortest: str | None = None
    form = choose_prompt_form(spec.settings.rationales, teacher, None)
    for prompt in iter_prompts(store, spec, form):
        size = len(prompt.text.encode())
        if covers(spec.budget, teacher, _tokens_of_request(spec, teacher, Tokens(prompt=size))):
            return None
        if shortest is None or size < len(shortest.encode()):
            shortest = prompt.text
    return shortest


def _tokens_of_request(spec: JobSpec, teacher: TeacherConfig, prompt: Tokens) -> Tokens:
    tokens = prompt + Tokens(completion=spec.settings.rationales.max_new_tokens)
    return tokens.by_batch() if asks_by_batch(spec, teacher) else tokens


async def _check_request(
    gateway: Gateway, spec: JobSpec, teacher: TeacherConfig, prompt: str
) -> None:
    client = make_teacher_client(spec.settings.teacher, teacher)
    try:
        counter = PromptTokenCounter(client, asks_teacher=True)
        tokens = _tokens_of_request(spec, teacher, await counter.count(prompt))
        if not covers(spec.budget, teacher, tokens) and await _is_anything_missing(
            gateway, spec, teacher, client
        ):
            raise _make_too_small_error(spec, teacher, tokens)
    finally:
        await client.close()


async def _is_anything_missing(
    gateway: Gateway, spec: JobSpec, teacher: TeacherConfig, client: TeacherClient
) -> bool:
    """Whether the teacher would have to be asked at all."""
    try:
        info = await client.fetch_info()
    except QcrdError:
        return True
    for form in list_prompt_forms(spec.settings.rationales, teacher, info):
        keys = {
            SampleRequest(prompt.prompt, index).key
            for prompt in iter_prompts(gateway.store, spec, form)
            for index in range(prompt.samples)
        }
        if len(find_generations(gateway, spec, info, form, keys)) == len(keys):
            return False
    return True


def _make_too_small_error(spec: JobSpec, teacher: TeacherConfig, tokens: Tokens) -> Invalid:
    field = "cost" if spec.budget.teacher_tokens is None else "teacher_tokens"
    cost = tokens.compute_cost(teacher)
    price = "" if spec.budget.cost is None or cost is None else f" ({cost:g} {teacher.currency})"
    return Invalid(
        f"`budget.{field}`: one request to the teacher can take {describe_request(tokens)}{price}, "
        f"more than the budget of {describe_limits(spec.budget, teacher)}: give a larger one, or "
        f"lower `method.{spec.method}.rationales.max_new_tokens`",
        param=f"budget.{field}",
        code="budget_too_small",
    )
