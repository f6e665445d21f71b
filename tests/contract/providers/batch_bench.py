"""Rounds by batch: a worker whose teacher has OpenAI's routes for batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import Budget
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.settings import TeacherConfig
from tests.fakes.batches import FakeBatches
from tests.unit.api.assembling.assembling_bench import QUICK, Bench

KEY = "sk-of-the-team-0123456789"
SAMPLES, QUESTIONS = 3, 4
PACE = replace(QUICK, batch_lookup=0.0)
MOST_ATTEMPTS = 40
"""A batch takes four, from validating to completed."""

Provide = Callable[..., tuple[Bench, FakeBatches]]


def make_config(provider: FakeBatches, **changes: Any) -> TeacherConfig:
    given = {"url": provider.url, "api": "openai", "model": "m", "api_key": SecretStr(KEY)}
    return TeacherConfig(**{**given, "batch": True, **changes})


def rows(count: int = QUESTIONS) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "label": str(i + 1)} for i in range(count)]


def make_job(
    here: Bench, count: int = QUESTIONS, budget: Budget | None = None, **rationales: Any
) -> Job:
    job = here.job(here.file(rows(count)), rationales={"n": SAMPLES, **rationales})
    if budget is None:
        return job
    return here.jobs.update(job.id, lambda one: one.model_copy(update={"budget": budget}))


def attempt(here: Bench, job: Job) -> Job:
    """The next attempt, when it is due."""
    return here.run(job, PACE)


def finish(here: Bench, job: Job) -> Job:
    """As many attempts as it takes."""
    for _ in range(MOST_ATTEMPTS):
        job = attempt(here, job)
        if job.status is not JobStatus.RUNNING or job.stage is not Stage.ASSEMBLING:
            return job
    raise AssertionError(f"it still waits: {told(here, job)}")


def told(here: Bench, job: Job) -> str:
    """Everything that a user can read of the job."""
    events = [event.model_dump_json() for event in here.events.read(job.id, None, 1000)]
    return "\n".join([*events, here.jobs.get(job.id).model_dump_json()])


def read_account(here: Bench, job: Job) -> TokenAccount:
    return TokenAccount(here.ledger, here.jobs.get(job.id))
