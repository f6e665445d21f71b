"""Starts a round of batches from what a stage has: its run, its plan and its budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qcrd.records.teacher_prompt import PromptStyle
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.batches.batch_run import BatchRun
from services.api.assembling.batches.planning import ShardPlanner
from services.api.assembling.batches.shard import ShardStore
from services.api.assembling.refusals import RefusalLog
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.assembling.sampling_run import SamplingRun
from services.api.assembling.teacher.openai.batches import make_batch_client
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.tokens.token_budget import TokenBudget


@dataclass(frozen=True)
class BatchPlan:
    """All samples that a job wants, by their keys, in prompts of `style`."""

    sampling: SamplingParams
    requests: Mapping[str, SampleRequest]
    refusals: RefusalLog
    style: PromptStyle


async def finish_batches(
    run: SamplingRun,
    plan: BatchPlan,
    budget: TokenBudget,
    prompt_tokens: PromptTokenCounter,
    backoff: BackoffPolicy,
    *,
    asks: bool,
) -> None:
    """`asks`: what is missing is asked for by batch too; else what is out is taken. Raises what
    `BatchRun.finish` raises."""
    stage = run.stage
    name, shards = stage.job.spec.settings.teacher, ShardStore(stage.store, stage.job.id)
    notes = shards.read_notes()
    client = make_batch_client(
        name,
        run.teacher,
        lambda notice: stage.emit(f"teacher {name}: {notice}"),
        left_out=notes.left_out,
        max_choices=notes.max_choices,
    )
    try:
        batches = BatchRun(
            stage=stage,
            client=client,
            shards=shards,
            planner=ShardPlanner(client, plan.sampling, budget, prompt_tokens, stage.job.id),
            run=run,
            refusals=plan.refusals,
            requests=plan.requests,
            style=plan.style,
            lookup_seconds=backoff.batch_lookup,
            notes=notes,
        )
        await batches.finish(asks=asks)
    finally:
        await client.close()
