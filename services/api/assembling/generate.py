"""Generation of missing teacher outputs, with progress, usage and events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qcrd.errors import OverBudget
from qcrd.questions.labelling import OutputsByQuestion
from qcrd.records.job import Job, Usage
from qcrd.records.rationales import Question
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
from services.api.assembling.generation_cache import (
    Generation,
    GenerationCache,
    find_existing,
)
from services.api.assembling.job_samples import SamplingPlan
from services.api.assembling.prompt_form import choose_prompt_form, make_prompt_form
from services.api.assembling.refusals import RefusalLog, RowLocation
from services.api.assembling.sampler import TeacherSampler
from services.api.assembling.sampling_plan import (
    SampleRequest,
    group_by_prompt,
)
from services.api.assembling.sampling_run import SamplingRun
from services.api.assembling.serving import AnswerTimer, Ask, make_serving, time_teacher
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
    """Outputs per question, how many of the training outputs another job had paid for, how many
    questions the teacher refused, the tokens of the training outputs, whoever paid for them, and
    what the test outputs took."""

    training: OutputsByQuestion
    test: OutputsByQuestion
    reused: int
    refused: int = 0
    training_tokens: int = 0
    serving: TeacherServing | None = None


def generate_outputs(
    stage: StageContext,
    buffer: GenerationBuffer,
    teacher: TeacherConfig,
    *,
    training: Sequence[Question],
    test: Sequence[Question],
    locations: Mapping[str, RowLocation],
    backoff: BackoffPolicy,
    notes: TeacherNotes | None = None,
) -> SampledOutputs:
    """All samples of all questions, without those that the teacher refuses. What was answered is
    kept whatever ends the round. `locations` has each question's line by its id.
    """
    spec = stage.job.spec.settings
    memory = open_memory(notes, spec.teacher, teacher)

    def sample(form: PromptForm) -> tuple[SamplingPlan, SamplingRun]:
        plan = SamplingPlan.make(spec, training, test, locations, form)
        with raise_dated(stage):
            run = asyncio.run(_run_sampling(stage, buffer, teacher, plan, backoff, memory))
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
    return _collect_outputs(stage.job, run, plan, training, test)


async def _fetch_info(name: str, teacher: TeacherConfig) -> TeacherInfo:
    client = make_teacher_client(name, teacher)
    try:
        return await client.fetch_info()
    finally:
        await client.close()


def _collect_outputs(
    job: Job,
    run: SamplingRun,
    plan: SamplingPlan,
    training: Sequence[Question],
    test: Sequence[Question],
) -> SampledOutputs:
    requests_by_question = plan.by_question
    outputs = {
        question: tuple(
            strip_stop_sequence(run.generations[sample.key], plan.sampling.stop)
            for sample in samples
            if sample.key in run.generations
        )
        for question, samples in requests_by_question.items()
    }
    bought = [
        run.generations[sample.key]
        for question in training
        for sample in requests_by_question[question.id]
        if sample.key in run.generations
    ]
    return SampledOutputs(
        training={question.id: outputs[question.id] for question in training},
        test={
            question.id: outputs[question.id]
            for question in test
            if requests_by_question[question.id]
        },
        reused=sum(each.job_id != job.id for each in bought),
        refused=len(plan.refusals.rows),
        training_tokens=sum(each.prompt_tokens + each.completion_tokens for each in bought),
        serving=make_serving(
            run.timer,
            run.teacher,
            [
                [run.generations[sample.key] for sample in samples if sample.key in run.generations]
                for samples in (requests_by_question[question.id] for question in test)
            ],
            bought,
            run.timed,
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


def strip_stop_sequence(generation: Generation, stop: Sequence[str]) -> str:
    """The text without the stop sequence that ended it, which a TGI server leaves in."""
    if generation.finish_reason == "stop_sequence":
        for stop_sequence in stop:
            if generation.text.endswith(stop_sequence):
                return generation.text.removesuffix(stop_sequence)
    return generation.text


async def _run_sampling(
    stage: StageContext,
    buffer: GenerationBuffer,
    teacher: TeacherConfig,
    plan: SamplingPlan,
    backoff: BackoffPolicy,
    memory: TeacherMemory,
) -> SamplingRun:
    name, requests = stage.job.spec.settings.teacher, plan.requests
    client = make_teacher_client(name, teacher, make_notify(stage), memory)
    try:
        fingerprint = (await client.fetch_info()).fingerprint
        cache = GenerationCache(
            stage.store, buffer, teacher=fingerprint, sampling=plan.sampling.fingerprint
        )
        cache.mark_used(stage.job.id)
        generations = find_existing(cache, stage.job.id, requests)
        paid = _sum_paid(stage.job, generations.values())
        account = TokenAccount.open(buffer, stage.job, paid, teacher)
        run = SamplingRun(stage, cache, teacher, requests, generations, account)
        run.reported_done = len(generations)
        run.report_earlier_attempts()
        missing = [sample for key, sample in requests.items() if key not in run.generations]
        by_batch = asks_by_batch(stage.job.spec, teacher)
        if by_batch:  # an attempt that only looks after batches tells no numbers again
            run.emitted_done = len(generations)
        stage.emit(
            f"asking teacher {name} for {len(missing)} outputs; "
            f"{len(requests) - len(missing)} are there already",
            asked=len(missing),
            found=len(requests) - len(missing),
            once="asking-by-batch" if by_batch else None,
        )
        prompt_tokens = PromptTokenCounter(client, asks_teacher=stage.job.budget != Budget())
        for key, generation in generations.items():
            # The others of an answer have none: the prompt was paid for once.
            if generation.prompt_tokens and not generation.estimated:
                prompt_tokens.learn(requests[key].prompt.text, generation.prompt_tokens)
        budget = TokenBudget(stage.job.budget, teacher, account)
        try:
            if by_batch or account.open_shards:
                asked = BatchPlan(plan.sampling, plan.requests, plan.refusals, plan.style)
                await finish_batches(
                    run, asked, budget, prompt_tokens, backoff, asks=by_batch, memory=memory
                )

            async def ask(
                samples: Sequence[SampleRequest], concurrency: int, timer: AnswerTimer
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
                await sampler.run(group_by_prompt(samples))

            if not by_batch:
                missing = [each for each in missing if each.key not in run.generations]
                await ask(missing, teacher.concurrency, run.timer)
            if stage.job.spec.settings.evaluation.time_teacher and plan.test_samples:
                await _time_teacher(stage, run, ask, plan.test_samples)
        finally:
            run.close()
        return run
    finally:
        await client.close()


async def _time_teacher(
    stage: StageContext, run: SamplingRun, ask: Ask, samples: Sequence[SampleRequest]
) -> None:
    """A budget that does not cover it ends it, and not the job."""
    try:
        run.timed = await time_teacher(ask, samples)
    except OverBudget as error:
        stage.emit(f"the teacher is not timed: {error.message}", once="teacher-not-timed")


def _sum_paid(job: Job, generations: Iterable[Generation]) -> Usage:
    """What a job without an account is known to have paid: what it told, and answers of its last
    seconds before it was killed."""
    paid = [one for one in generations if one.job_id == job.id]
    told = job.usage
    return told.model_copy(
        update={
            "teacher_prompt_tokens": max(
                told.teacher_prompt_tokens, sum(one.prompt_tokens for one in paid)
            ),
            "teacher_completion_tokens": max(
                told.teacher_completion_tokens, sum(one.completion_tokens for one in paid)
            ),
            "estimated": told.estimated or any(one.estimated for one in paid),
        }
    )
