"""Ask the teacher for every sample that nobody has paid for yet, and tell how it gets on."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from qcrd.errors import QcrdError
from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.job import Usage
from qcrd.records.rationales import Question
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from services.api.assembling.budget import Purse
from services.api.assembling.generation_cache import Generation, Generations
from services.api.assembling.labelling import Outputs
from services.api.assembling.sampler import Asking, Pace
from services.api.assembling.sampling_plan import Sampling, Wanted, asked
from services.api.assembling.teacher_client import Answer, TeacherClient
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
SEAL_EVERY = 2000
"""Answers in the ledger, about 2 MB of Redis memory, before they are moved to the store."""
ASKED_PERCENT = 95.0
"""Share of the stage that asking is; the rest is to vote and to write."""


@dataclass(frozen=True)
class Generated:
    """Outputs per question, and how many of the training outputs another job had paid for."""

    training: Outputs
    test: Outputs
    reused: int


@dataclass
class _Round:
    """What one round of asking knows: all samples wanted and those that are there."""

    stage: StageContext
    cache: Generations
    teacher: TeacherConfig
    wanted: Mapping[str, Wanted]
    found: dict[str, Generation]
    unsealed: int = 0
    counted: Usage = field(default_factory=Usage)
    measured: int = -1
    reported_at: float = field(default_factory=time.monotonic)
    told: str | None = None

    def keep(self, wanted: Wanted, answer: Answer) -> None:
        generation = Generation(
            key=wanted.key,
            index=wanted.index,
            text=answer.text,
            finish_reason=answer.finish_reason,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            job_id=self.stage.job.id,
        )
        self.cache.add(generation)
        self.found[generation.key] = generation
        self.unsealed += 1
        if self.unsealed >= SEAL_EVERY:
            self.seal()

    def seal(self) -> None:
        """What cannot be sealed now stays in the ledger, where the next job finds it as well."""
        self.unsealed = 0
        try:
            self.cache.seal()
        except QcrdError as error:
            log.warning("teacher outputs stay in the ledger: %s", error)

    def close(self) -> None:
        """Whatever ends the round: what was answered is kept, and what it cost is told."""
        self.seal()
        with contextlib.suppress(QcrdError):
            self.report()

    def look(self, down: str | None) -> None:
        """Called twice a second: stop when told to, say what changed, report now and then."""
        self.stage.raise_if_stopping()
        if down != self.told and bool(down) != bool(self.told):
            self._tell(down)
        if time.monotonic() - self.reported_at >= REPORT_SECONDS:
            self.report(down)

    def report(self, down: str | None = None) -> None:
        self.reported_at = time.monotonic()
        done, total, usage = len(self.found), len(self.wanted), self.usage()
        self._count(usage)
        percent = ASKED_PERCENT * done / max(1, total)
        progress = self.stage.make_progress(percent, done, total)
        if down is not None:
            self.stage.update_job(progress=progress, usage=usage, waiting=down)
            return
        self.stage.update_job(progress=progress, usage=usage, waiting=None, backoffs=0)
        if done != self.measured:
            self.measured = done
            self.stage.emit_metrics(
                f"{done} of {total} teacher outputs",
                done=done,
                total=total,
                **usage.model_dump(),
            )

    def usage(self) -> Usage:
        """What this job paid, over all of its attempts."""
        paid = [g for g in self.found.values() if g.job_id == self.stage.job.id]
        # Never less than was told: a job that asked the same at the same time may have replaced
        # answers of this one, which it paid for all the same.
        told = self.stage.job.usage
        prompt = max(told.teacher_prompt_tokens, sum(g.prompt_tokens for g in paid))
        completion = max(told.teacher_completion_tokens, sum(g.completion_tokens for g in paid))
        cost = self.teacher.compute_cost(prompt, completion)
        return self.stage.job.usage.model_copy(
            update={
                "teacher_prompt_tokens": prompt,
                "teacher_completion_tokens": completion,
                "cost": cost,
                "currency": None if cost is None else self.teacher.currency,
            }
        )

    def _count(self, usage: Usage) -> None:
        """What was paid since the last time. A kill loses the two seconds before it: the job's own
        usage is the truth, this is for curves."""
        before, self.counted = self.counted, usage
        name = self.stage.job.spec.settings.teacher
        for kind in ("prompt", "completion"):
            paid = getattr(usage, f"teacher_{kind}_tokens")
            more = paid - getattr(before, f"teacher_{kind}_tokens")
            if more:
                self.stage.counters.increment("teacher_tokens", more, teacher=name, kind=kind)

    def _tell(self, down: str | None) -> None:
        self.told = down
        if down is None:
            self.stage.emit("the teacher answers again")
        else:
            message = f"{down}; waiting for it, {len(self.found)} outputs are kept"
            self.stage.events.append(self.stage.job.id, message, level="warn")
        self.report(down)


def generate(
    stage: StageContext,
    ledger: GenerationBuffer,
    teacher: TeacherConfig,
    *,
    training: Sequence[Question],
    test: Sequence[Question],
    pace: Pace,
) -> Generated:
    """All samples of all questions. What was answered is kept whatever ends the round."""
    spec = stage.job.spec.settings
    sampling = Sampling.of(spec.rationales)
    plan = {
        question.id: [Wanted(build_teacher_prompt(spec.task, question), n) for n in range(samples)]
        for question, samples in asked(spec.rationales, training, test)
    }
    wanted = {sample.key: sample for samples in plan.values() for sample in samples}
    asking = asyncio.run(_round(stage, ledger, teacher, sampling, wanted, pace))
    outputs = {
        question: tuple(own_words(asking.found[sample.key], sampling.stop) for sample in samples)
        for question, samples in plan.items()
    }
    return Generated(
        training={question.id: outputs[question.id] for question in training},
        test={question.id: outputs[question.id] for question in test if plan[question.id]},
        reused=sum(
            asking.found[sample.key].job_id != stage.job.id
            for question in training
            for sample in plan[question.id]
        ),
    )


def own_words(generation: Generation, stop: Sequence[str]) -> str:
    """The text without the stop sequence that ended it, which a TGI server leaves in."""
    if generation.finish_reason == "stop_sequence":
        for mark in stop:
            if generation.text.endswith(mark):
                return generation.text.removesuffix(mark)
    return generation.text


async def _round(
    stage: StageContext,
    ledger: GenerationBuffer,
    teacher: TeacherConfig,
    sampling: Sampling,
    wanted: Mapping[str, Wanted],
    pace: Pace,
) -> _Round:
    name = stage.job.spec.settings.teacher
    client = TeacherClient(name, teacher)
    try:
        model = await client.fingerprint()
        cache = Generations(stage.store, ledger, teacher=model, sampling=sampling.fingerprint)
        round_ = _Round(stage, cache, teacher, wanted, cache.find(wanted.keys()))
        round_.counted = round_.usage()
        missing = [sample for key, sample in wanted.items() if key not in round_.found]
        stage.emit(
            f"asking teacher {name} for {len(missing)} outputs; "
            f"{len(wanted) - len(missing)} are there already",
            asked=len(missing),
            found=len(wanted) - len(missing),
        )
        asking = Asking(
            client,
            sampling,
            teacher=model,
            concurrency=teacher.concurrency,
            keep=round_.keep,
            look=round_.look,
            pace=pace,
            purse=Purse(stage.job.budget, teacher, sampling.max_new_tokens, round_.usage()),
        )
        try:
            await asking.run(missing)
        finally:
            round_.close()
        return round_
    finally:
        await client.close()
