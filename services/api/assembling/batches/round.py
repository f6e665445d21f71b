"""Starts a round of batches from what a stage has: its run, its plan and its budget."""

from __future__ import annotations

from dataclasses import dataclass

from qcrd.errors import QcrdError
from qcrd.records.teachers.prompt import PromptStyle
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.batches.batch_run import BatchRun
from services.api.assembling.batches.failures import make_lost_error
from services.api.assembling.batches.planning import ShardPlanner
from services.api.assembling.batches.round_notes import RoundNotes
from services.api.assembling.batches.shard import ShardStore
from services.api.assembling.refusals import RefusalLog
from services.api.assembling.sampling_plan import SamplingParams
from services.api.assembling.sampling_run import SamplingRun
from services.api.assembling.spill.samples import SpilledSamples
from services.api.assembling.teacher.memory import FORGETFUL, TeacherMemory
from services.api.assembling.teacher.openai.batches import make_batch_client
from services.api.assembling.teacher.outages import make_notify
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.tokens.token_budget import TokenBudget


@dataclass(frozen=True)
class BatchPlan:
    """All samples that a job wants, in prompts of `style`."""

    sampling: SamplingParams
    samples: SpilledSamples
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
    memory: TeacherMemory = FORGETFUL,
) -> None:
    """`asks`: what is missing is asked for by batch too; else what is out is taken. Raises what
    `BatchRun.finish` raises."""
    if run.teacher.api != "openai":
        raise _give_up_all(run)
    stage = run.stage
    name, shards = stage.job.spec.settings.teacher, ShardStore(stage.store, stage.job.id)
    notes = shards.read_notes()
    client = make_batch_client(
        name,
        run.teacher,
        make_notify(stage),
        left_out=notes.left_out,
        max_choices=notes.max_choices,
        memory=memory,
    )
    try:
        batches = BatchRun(
            stage=stage,
            client=client,
            shards=shards,
            planner=ShardPlanner(client, plan.sampling, budget, prompt_tokens, stage.job.id),
            run=run,
            refusals=plan.refusals,
            samples=plan.samples,
            notebook=RoundNotes(shards, client.support, plan.style, notes),
            lookup_seconds=backoff.batch_lookup,
        )
        await batches.finish(asks=asks)
    finally:
        await client.close()


def _give_up_all(run: SamplingRun) -> QcrdError:
    """The teacher's configuration has changed while batches were out."""
    account, label = run.account, f"teacher {run.stage.job.spec.settings.teacher}"
    lost = account.reserved_by_batch
    for name in account.open_shards:
        account.settle_shard(name, uncertain=account.get_shard(name))
    account.flush()
    return make_lost_error(label, None, "of another teacher server", lost)
