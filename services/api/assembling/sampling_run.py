"""The state of one sampling run: what was asked for, what there is, what it cost, what was told."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from qcrd.errors import NothingSaid, QcrdError
from qcrd.records.job import Usage
from qcrd.records.reports.serving import AnswerTimes
from qcrd.runtime.jobs.stage_context import StageContext
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.serving import AnswerTimer
from services.api.assembling.spill.samples import SpilledSamples
from services.api.assembling.teacher.outages import describe_outage
from services.api.assembling.teacher.teacher_client import Completion
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

REPORT_INTERVAL_SECONDS = 2.0
FLUSH_EVERY = 2000
"""Outputs in the buffer, about 2 MB of Redis memory, before they are moved to the store."""
MAX_EMPTY_ANSWERS = 10
"""Empty answers, and no other, after which the rest of the budget is kept."""
SAMPLING_PERCENT = 95.0
"""Share of the stage that is sampling; the rest is voting and writing."""


@dataclass
class SamplingRun:
    """The state of one sampling run: all samples that are wanted and the generations there are."""

    stage: StageContext
    cache: GenerationCache
    teacher: TeacherConfig
    samples: SpilledSamples
    account: TokenAccount
    timer: AnswerTimer = field(default_factory=AnswerTimer)
    timed: tuple[AnswerTimes, ...] = ()
    unflushed: int = 0
    has_text: bool = False
    empty_answers: int = 0
    counted_usage: Usage = field(default_factory=Usage)
    emitted_done: int = -1
    reported_done: int = 0
    reported_at: float = field(default_factory=time.monotonic)
    reported_outage: str | None = None

    def add_completions(self, completions: Sequence[tuple[SampleRequest, Completion]]) -> None:
        """Keep the samples of one answer, and what it cost, in one write."""
        generations = [
            Generation.make(sample.key, sample.index, each, self.stage.job.id)
            for sample, each in completions
        ]
        self.keep(generations)
        self.check_anything_said(generations)

    def keep(self, generations: Sequence[Generation]) -> None:
        """With what is settled in the account, in one write."""
        if generations:
            self.account.flush(lambda update: self.cache.add(generations, update))
        else:
            self.account.flush()
        self.samples.keep(generations)  # those asked for their times alone are none of the job's
        self.unflushed += len(generations)
        if self.unflushed >= FLUSH_EVERY:
            self.flush()

    def check_anything_said(self, generations: Sequence[Generation]) -> None:
        """`NothingSaid` when these and all before are empty, and they are many."""
        self.has_text = self.has_text or any(each.text.strip() for each in generations)
        self.empty_answers += len(generations)
        if not self.has_text and self.empty_answers >= MAX_EMPTY_ANSWERS:
            raise self._make_nothing_said_error(generations[-1])

    def _make_nothing_said_error(self, last: Generation) -> NothingSaid:
        method = f"method.{self.stage.job.spec.method}.rationales"
        advice = f"see what it says to a prompt of this job, and whether `{method}.stop` ends it"
        if last.finish_reason == "length":
            advice = (
                f"a model that reasons first needs a larger `{method}.max_new_tokens`, "
                "within which it has not come to its reply"
            )
        return NothingSaid(
            f"the first {self.empty_answers} answers of the teacher are all empty (finish reason "
            f"{last.finish_reason}): {advice}; then resume the job or create it anew",
            param=method,
        )

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
        done, total, usage = self.samples.found, len(self.samples), self.compute_usage()
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
            message = f"{waiting}; waiting for it, {self.samples.found} outputs are kept"
            self.stage.events.append(self.stage.job.id, message, level="warn")
        self.report_progress(outage)
