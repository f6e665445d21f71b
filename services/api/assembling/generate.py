"""Generation of missing teacher outputs, with progress, usage and events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from qcrd.errors import OverBudget
from qcrd.questions.labelling import OutputsByQuestion
from qcrd.records.job import Job, Usage
from qcrd.records.reports.serving import TeacherServing
from qcrd.records.specs.spec import Budget
from qcrd.records.teachers.prompt import PromptForm
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from qcrd.runtime.redis.teacher_notes import TeacherNotes
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.batches.choose import asks_by_batch
from services.api.assembling.batches.round import BatchPlan, finish_batches
from services.api.assembling.batches.shard import BatchNotes, ShardStore
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.job_samples import SamplingPlan
from services.api.assembling.prompt_form import choose_prompt_form, make_prompt_form
from services.api.assembling.refusals import RefusalLog
from services.api.assembling.sampler import TeacherSampler
from services.api.assembling.sampling_plan import (
    PromptRequest,
    SampleRequest,
    group_by_prompt,
)
from services.api.assembling.sampling_run import SamplingRun
from services.api.assembling.serving import (
    MAX_TIMED_SAMPLES,
    AnswerTimer,
    Ask,
    make_serving,
    time_teacher,
)
from services.api.assembling.spill import outputs as spilled
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.samples import SpilledSamples
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.memory import TeacherMemory, open_memory
from services.api.assembling.teacher.outages import make_notify, raise_dated
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.teacher.teacher_client import TeacherInfo
from services.api.assembling.teacher.teacher_errors import StyleUnsupported
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.settings import TeacherConfig


@dataclass(frozen=True)
class SampledOutputs:
    """Outputs per question of training and test, how many of the training outputs another job had
    paid for, how many questions the teacher refused, the tokens of the training outputs, whoever
    paid for them, and what the test outputs took."""

    outputs: OutputsByQuestion
    reused: int
    refused: int = 0
    training_tokens: int = 0
    serving: TeacherServing | None = None


def generate_outputs(
    stage: StageContext,
    buffer: GenerationBuffer,
    teacher: TeacherConfig,
    database: SpillDatabase,
    *,
    backoff: BackoffPolicy,
    notes: TeacherNotes | None = None,
) -> SampledOutputs:
    """All samples of the training and test questions that `database` has, without those that the
    teacher refuses. What was answered is kept whatever ends the round.
    """
    spec = stage.job.spec.settings
    memory = open_memory(notes, spec.teacher, teacher)

    def sample(form: PromptForm) -> tuple[SamplingPlan, SamplingRun]:
        plan = SamplingPlan.make(stage.job, database, form)
        with raise_dated(stage):
            run = asyncio.run(
                _run_sampling(stage, buffer, teacher, database, plan, backoff, memory)
            )
        _report_refusals(stage, plan.refusals)
        return plan, run

    by_batch = asks_by_batch(stage.job.spec, teacher)
    with raise_dated(stage):
        info = asyncio.run(_fetch_info(spec.teacher, teacher))
    form = choose_prompt_form(spec.rationales, teacher, info)
    out = ShardStore(stage.store, stage.job.id).read_notes() if by_batch else BatchNotes()
    if out.style is not None:  # what is out is asked in it
        form = make_prompt_form(spec.rationales, out.style, info)
    try:
        plan, run = sample(form)
    except StyleUnsupported as error:
        if {spec.rationales.prompt, teacher.prompt} != {"auto"} or error.style == form.style:
            raise
        stage.emit(f"{error.message}: it is asked by {error.style} prompts", style=error.style)
        plan, run = sample(make_prompt_form(spec.rationales, error.style, info))
    return _collect_outputs(run, plan, database)


async def _fetch_info(name: str, teacher: TeacherConfig) -> TeacherInfo:
    client = make_teacher_client(name, teacher)
    try:
        return await client.fetch_info()
    finally:
        await client.close()


def _collect_outputs(
    run: SamplingRun, plan: SamplingPlan, database: SpillDatabase
) -> SampledOutputs:
    training = spilled.sum_training_outputs(database)
    return SampledOutputs(
        outputs=spilled.SampledTexts(database, plan.sampling.stop),
        reused=training.foreign,
        refused=len(plan.refusals.rows),
        training_tokens=training.prompt_tokens + training.completion_tokens,
        serving=make_serving(
            run.timer,
            run.teacher,
            answered=spilled.count_answered_tests(database),
            test=spilled.sum_test_outputs(database),
            training=training,
            timed=run.timed,
        ),
    )


def _report_refusals(stage: StageContext, refusals: RefusalLog) -> None:
    """Every refused line in one event. `TooManyRefused` when they are more than the spec allows."""
    if not refusals.rows:
        return
    data = {"refused": refusals.count_by_reason(), "rows": refusals.list_rows()}
    stage.events.append(stage.job.id, refusals.describe(), level="warn", data=data)
    if refusals.is_too_many:
        param = f"method.{stage.job.spec.method}.rationales.max_failed_share"
        raise refusals.make_error(param)


async def _run_sampling(
    stage: StageContext,
    buffer: GenerationBuffer,
    teacher: TeacherConfig,
    database: SpillDatabase,
    plan: SamplingPlan,
    backoff: BackoffPolicy,
    memory: TeacherMemory,
) -> SamplingRun:
    name, samples = stage.job.spec.settings.teacher, plan.samples
    client = make_teacher_client(name, teacher, make_notify(stage), memory)
    try:
        fingerprint = (await client.fetch_info()).fingerprint
        cache = GenerationCache(
            stage.store, buffer, teacher=fingerprint, sampling=plan.sampling.fingerprint
        )
        cache.mark_used(stage.job.id)
        samples.keep(_while_wanted(stage, cache.find_each(samples)))
        paid = _fill_paid(stage.job, spilled.sum_own_outputs(database))
        account = TokenAccount.open(buffer, stage.job, paid, teacher)
        run = SamplingRun(stage, cache, teacher, samples, account)
        run.reported_done = samples.found
        run.report_earlier_attempts()
        missing = len(samples) - samples.found
        by_batch = asks_by_batch(stage.job.spec, teacher)
        if by_batch:  # an attempt that only looks after batches tells no numbers again
            run.emitted_done = samples.found
        stage.emit(
            f"asking teacher {name} for {missing} outputs; {samples.found} are there already",
            asked=missing,
            found=samples.found,
            once="asking-by-batch" if by_batch else None,
        )
        prompt_tokens = PromptTokenCounter(client, asks_teacher=stage.job.budget != Budget())
        for prompt, tokens in samples.iter_told_prompts():
            prompt_tokens.learn(prompt.text, tokens)
        budget = TokenBudget(stage.job.budget, teacher, account)
        try:
            if by_batch or account.open_shards:
                asked = BatchPlan(plan.sampling, samples, plan.refusals, plan.style)
                await finish_batches(
                    run, asked, budget, prompt_tokens, backoff, asks=by_batch, memory=memory
                )

            async def ask(
                requests: Iterable[PromptRequest], concurrency: int, timer: AnswerTimer
            ) -> None:
                sampler = TeacherSampler(
                    client,
                    plan.sampling,
                    teacher_fingerprint=fingerprint,
                    concurrency=concurrency,
                    on_completions=run.add_completions,
                    poll=run.poll,
                    backoff=backoff,
                    budget=budget,
                    prompt_tokens=prompt_tokens,
                    refusals=plan.refusals,
                    timer=timer,
                )
                await sampler.run(requests)

            if not by_batch:
                requests = _iter_missing(samples, prompt_tokens)
                await ask(requests, teacher.concurrency, run.timer)
            if stage.job.spec.settings.evaluation.time_teacher:
                test_samples = list(islice(samples.iter_test_samples(), MAX_TIMED_SAMPLES))
                if test_samples:
                    await _time_teacher(stage, run, ask, test_samples)
        finally:
            run.close()
        return run
    finally:
        await client.close()


def _while_wanted(stage: StageContext, generations: Iterable[Generation]) -> Iterator[Generation]:
    """They may be millions, and the job may be cancelled meanwhile."""
    for one in generations:
        stage.raise_if_stopping()
        yield one


def _iter_missing(
    samples: SpilledSamples, prompt_tokens: PromptTokenCounter
) -> Iterator[PromptRequest]:
    """What is to be asked, with what other outputs of its prompt told of it learnt anew."""
    for request in group_by_prompt(samples.iter_missing()):
        if (tokens := samples.find_told(request.prompt)) is not None:
            prompt_tokens.learn(request.prompt.text, tokens)
        yield request


async def _time_teacher(
    stage: StageContext, run: SamplingRun, ask: Ask, samples: Sequence[SampleRequest]
) -> None:
    """A budget that does not cover it ends it, and not the job."""
    try:
        run.timed = await time_teacher(ask, samples)
    except OverBudget as error:
        stage.emit(f"the teacher is not timed: {error.message}", once="teacher-not-timed")


def _fill_paid(job: Job, paid: spilled.OutputSums) -> Usage:
    """What a job without an account is known to have paid: what it told, and answers of its last
    seconds before it was killed."""
    told = job.usage
    return told.model_copy(
        update={
            "teacher_prompt_tokens": max(told.teacher_prompt_tokens, paid.prompt_tokens),
            "teacher_completion_tokens": max(
                told.teacher_completion_tokens, paid.completion_tokens
            ),
            "estimated": told.estimated or paid.is_estimated,
        }
    )
