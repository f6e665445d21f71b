"""Generation of missing teacher outputs, with progress, usage and events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qcrd.errors import QcrdError
from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.job import Job, Usage
from qcrd.records.rationales import Question
from qcrd.records.spec import Budget
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.labelling import OutputsByQuestion
from services.api.assembling.refusals import AskedQuestion, RefusalLog, RowLocation
from services.api.assembling.sampler import BackoffPolicy, TeacherSampler
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams, iter_sample_counts
from services.api.assembling.teacher.outages import describe_outage, raise_dated
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.teacher.teacher_client import Completion, TeacherClient
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

REPORT_INTERVAL_SECONDS = 2.0
FLUSH_EVERY = 2000
"""Outputs in the buffer, about 2 MB of Redis memory, before they are moved to the store."""
SAMPLING_PERCENT = 95.0
"""Share of the stage that is sampling; the rest is voting and writing."""


@dataclass(frozen=True)
class SampledOutputs:
    """Outputs per question, how many of the training outputs another job had paid for, and how
    many questions the teacher refused."""

    training: OutputsByQuestion
    test: OutputsByQuestion
    reused: int
    refused: int = 0


@dataclass
class _SamplingRun:
    """The state of one sampling run: all samples requested and the generations there are."""

    stage: StageContext
    cache: GenerationCache
    teacher: TeacherConfig
    requests: Mapping[str, SampleRequest]
    generations: dict[str, Generation]
    account: TokenAccount
    unflushed: int = 0
    counted_usage: Usage = field(default_factory=Usage)
    emitted_done: int = -1
    reported_done: int = 0
    reported_at: float = field(default_factory=time.monotonic)
    reported_outage: str | None = None

    def add_completion(self, request: SampleRequest, completion: Completion) -> None:
        generation = Generation(
            key=request.key,
            index=request.index,
            text=completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            estimated=completion.estimated,
            job_id=self.stage.job.id,
        )
        self.account.flush(lambda update: self.cache.add(generation, update))
        self.generations[generation.key] = generation
        self.unflushed += 1
        if self.unflushed >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Move buffered outputs to the store; on failure they stay in Redis, open to all jobs."""
        self.unflushed = 0
        try:
            self.cache.flush()
        except QcrdError as error:
            log.warning("teacher outputs not flushed to the store, they stay in Redis: %s", error)

    def close(self) -> None:
        """Flush the outputs and report usage, however the run ended."""
        self.flush()
        with contextlib.suppress(QcrdError):
            self.report_progress()

    def poll(self, outage: str | None) -> None:
        """Stop on request, emit outages, report progress at intervals. Called twice a second."""
        self.stage.raise_if_stopping()
        if outage != self.reported_outage and bool(outage) != bool(self.reported_outage):
            self._emit_outage(outage)
        if time.monotonic() - self.reported_at >= REPORT_INTERVAL_SECONDS:
            self.report_progress(outage)

    def report_progress(self, outage: str | None = None) -> None:
        self.reported_at = time.monotonic()
        self.account.flush()  # first: the job tells nothing that its next attempt would not know
        done, total, usage = len(self.generations), len(self.requests), self.compute_usage()
        self._increment_counters(usage)
        percent = SAMPLING_PERCENT * done / max(1, total)
        progress = self.stage.make_progress(percent, done, total)
        if outage is not None:
            waiting = describe_outage(outage, self.stage.job.waiting_since)
            self.stage.update_job(progress=progress, usage=usage, waiting=waiting)
            return
        self.stage.update_job(progress=progress, usage=usage, **self._end_waiting(done))
        if done != self.emitted_done:
            self.emitted_done = done
            self.stage.emit_metrics(
                f"{done} of {total} teacher outputs",
                done=done,
                total=total,
                **usage.model_dump(),
            )

    def _end_waiting(self, done: int) -> dict[str, object]:
        """An answer is what ends it: a teacher may be there and its upstream still away."""
        is_new, self.reported_done = done > self.reported_done, done
        return {"waiting": None, "backoffs": 0} if is_new else {}

    def compute_usage(self) -> Usage:
        """What this job paid or may have paid, over all of its attempts."""
        return self.account.fill_usage(self.stage.job.usage, self.teacher)

    def report_earlier_attempts(self) -> None:
        """What they had in flight when they ended, and could not tell."""
        before, usage = self.stage.job.usage, self.compute_usage()
        self.counted_usage = usage
        if usage == before:
            return
        self.stage.update_job(usage=usage)
        if usage.uncertain > before.uncertain:
            self.stage.events.append(
                self.stage.job.id,
                f"{usage.uncertain:,} teacher tokens may have been spent: an earlier attempt ended "
                "while it had requests in flight",
                level="warn",
                data={"uncertain": usage.uncertain},
                once=f"uncertain-{self.stage.token}",
            )

    def _increment_counters(self, usage: Usage) -> None:
        """Add the usage since the last call to the metrics. A kill loses two seconds of it; the
        exact figure is in the job."""
        before, self.counted_usage = self.counted_usage, usage
        name = self.stage.job.spec.settings.teacher
        for kind in ("prompt", "completion"):
            paid = getattr(usage, f"teacher_{kind}_tokens")
            delta = paid - getattr(before, f"teacher_{kind}_tokens")
            if delta:
                self.stage.counters.increment("teacher_tokens", delta, teacher=name, kind=kind)

    def _emit_outage(self, outage: str | None) -> None:
        self.reported_outage = outage
        if outage is None:
            self.stage.emit("the teacher is reachable again")
        else:
            waiting = describe_outage(outage, self.stage.job.waiting_since)
            message = f"{waiting}; waiting for it, {len(self.generations)} outputs are kept"
            self.stage.events.append(self.stage.job.id, message, level="warn")
        self.report_progress(outage)


def generate_outputs(
    stage: StageContext,
    buffer: GenerationBuffer,
    teacher: TeacherConfig,
    *,
    training: Sequence[Question],
    test: Sequence[Question],
    locations: Mapping[str, RowLocation],
    backoff: BackoffPolicy,
) -> SampledOutputs:
    """All samples of all questions, without those that the teacher refuses. What was answered is
    kept whatever ends the round. `locations` has each question's line by its id.
    """
    spec = stage.job.spec.settings
    sampling = SamplingParams.from_spec(spec.rationales)
    requests_by_question = {
        question.id: [
            SampleRequest(build_teacher_prompt(spec.task, question), n) for n in range(samples)
        ]
        for question, samples in iter_sample_counts(spec.rationales, training, test)
    }
    requests = {
        sample.key: sample for samples in requests_by_question.values() for sample in samples
    }
    asked = {
        samples[0].prompt: AskedQuestion(locations[question], len(samples))
        for question, samples in requests_by_question.items()
        if samples
    }
    refusals = RefusalLog(asked, spec.rationales.max_failed_share)
    with raise_dated(stage):
        run = asyncio.run(
            _run_sampling(stage, buffer, teacher, sampling, requests, refusals, backoff)
        )
    _report_refusals(stage, refusals)
    outputs = {
        question: tuple(
            strip_stop_sequence(run.generations[sample.key], sampling.stop)
            for sample in samples
            if sample.key in run.generations
        )
        for question, samples in requests_by_question.items()
    }
    return SampledOutputs(
        training={question.id: outputs[question.id] for question in training},
        test={
            question.id: outputs[question.id]
            for question in test
            if requests_by_question[question.id]
        },
        reused=sum(
            run.generations[sample.key].job_id != stage.job.id
            for question in training
            for sample in requests_by_question[question.id]
            if sample.key in run.generations
        ),
        refused=len(refusals.rows),
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
    sampling: SamplingParams,
    requests: Mapping[str, SampleRequest],
    refusals: RefusalLog,
    backoff: BackoffPolicy,
) -> _SamplingRun:
    name = stage.job.spec.settings.teacher
    client = TeacherClient(name, teacher)
    try:
        fingerprint = await client.fetch_fingerprint()
        cache = GenerationCache(
            stage.store, buffer, teacher=fingerprint, sampling=sampling.fingerprint
        )
        generations = cache.find_many(requests.keys())
        paid = _sum_paid(stage.job, generations.values())
        account = TokenAccount.open(buffer, stage.job, paid, teacher)
        run = _SamplingRun(stage, cache, teacher, requests, generations, account)
        run.reported_done = len(generations)
        run.report_earlier_attempts()
        missing = [sample for key, sample in requests.items() if key not in run.generations]
        stage.emit(
            f"asking teacher {name} for {len(missing)} outputs; "
            f"{len(requests) - len(missing)} are there already",
            asked=len(missing),
            found=len(requests) - len(missing),
        )
        prompt_tokens = PromptTokenCounter(client, asks_teacher=stage.job.budget != Budget())
        for key, generation in generations.items():
            if not generation.estimated:
                prompt_tokens.learn(requests[key].prompt, generation.prompt_tokens)
        sampler = TeacherSampler(
            client,
            sampling,
            teacher_fingerprint=fingerprint,
            concurrency=teacher.concurrency,
            on_completion=run.add_completion,
            poll=run.poll,
            backoff=backoff,
            budget=TokenBudget(stage.job.budget, teacher, account),
            prompt_tokens=prompt_tokens,
            refusals=refusals,
        )
        try:
            await sampler.run(missing)
        finally:
            run.close()
        return run
    finally:
        await client.close()


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
