"""Batches of jobs that have ended while they were out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.commands import transition_job
from services.api.assembling.batches.sweep import BatchSweeper
from services.api.assembling.tokens.token_account import delete_account
from tests.contract.providers.batch_bench import (
    KEY,
    QUESTIONS,
    SAMPLES,
    attempt,
    finish,
    make_config,
    make_job,
    read_account,
)
from tests.fakes.batches import Ending, FakeBatches
from tests.fakes.providers import PROMPT_TOKENS
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.assembling.assembling_bench import Bench, adds

DONE = 2
"""Lines that a batch has done when it is cancelled."""


@pytest.fixture
def provider() -> Iterator[FakeBatches]:
    made = FakeBatches(adds, key=KEY, end=lambda batch: Ending(done=DONE))
    made.stands = True
    yield made
    made.close()


@pytest.fixture
def here(provider: FakeBatches) -> Iterator[Bench]:
    unused = ScriptedTeacher(adds)
    made = Bench(unused)
    prices: dict[str, Any] = {"prompt_price": 1.0, "completion_price": 2.0}
    made.teachers = {"default": make_config(provider, **prices)}
    yield made
    unused.close()


def sweep(here: Bench) -> None:
    BatchSweeper(here.jobs, here.store, here.ledger, here.teachers).sweep()


def cancel(here: Bench, job: Job) -> None:
    transition_job(here.jobs, job.id, JobStatus.CANCELLED)


def test_the_batch_of_a_cancelled_job_is_cancelled_and_what_was_done_is_kept(
    here: Bench, provider: FakeBatches
) -> None:
    job = attempt(here, make_job(here))
    cancel(here, job)
    sweep(here)
    assert provider.batches[0].status == "cancelling"
    assert here.store.list("batches/") != []
    sweep(here)
    assert provider.batches[0].status == "cancelled"
    usage = here.jobs.get(job.id).usage
    assert usage.teacher_prompt_tokens == provider.prompt_tokens == DONE * PROMPT_TOKENS
    assert usage.cost == pytest.approx(
        0.5 * (provider.prompt_tokens + 2 * provider.completion_tokens) / 1e6
    )
    assert usage.uncertain == 0
    assert read_account(here, job).reserved.total == 0
    assert here.store.list("batches/") == []
    assert provider.deleted == ["file-1"]
    provider.stands, provider.end = False, lambda batch: Ending()
    again = finish(here, make_job(here))
    assert here.manifest(again).counts.reused == DONE * SAMPLES
    assert set(provider.ran.values()) == {1}


def test_a_deleted_job_s_batch_is_cancelled_too(here: Bench, provider: FakeBatches) -> None:
    job = attempt(here, make_job(here))
    cancel(here, job)
    delete_account(here.ledger, job.id)
    here.jobs.delete(job.id)
    sweep(here)
    sweep(here)
    assert provider.batches[0].status == "cancelled"
    assert here.store.list("batches/") == []
    assert here.ledger.read_account(job.id) == {}
    provider.stands, provider.end = False, lambda batch: Ending()
    assert here.manifest(finish(here, make_job(here))).counts.reused == DONE * SAMPLES


def test_a_batch_that_ended_before_it_was_cancelled_is_taken_whole(
    here: Bench, provider: FakeBatches
) -> None:
    provider.end, provider.stands = (lambda batch: Ending()), False
    job = attempt(here, make_job(here))
    cancel(here, job)
    provider.batches[0].status = "finalizing"
    sweep(here)
    assert here.jobs.get(job.id).usage.teacher_prompt_tokens == QUESTIONS * PROMPT_TOKENS


def test_a_batch_that_nobody_came_to_write_down_is_found_and_cancelled(
    here: Bench, provider: FakeBatches
) -> None:
    provider.answers_lost = 1
    job = attempt(here, make_job(here))
    cancel(here, job)
    sweep(here)
    assert provider.batches[0].status == "cancelling"


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PAUSED])
def test_a_job_that_goes_on_keeps_its_batch(
    status: JobStatus, here: Bench, provider: FakeBatches
) -> None:
    job = attempt(here, make_job(here))
    transition_job(here.jobs, job.id, status)
    sweep(here)
    assert provider.batches[0].status == "validating"
    assert len(here.store.list("batches/")) == 3


def test_what_a_round_noted_goes_with_its_job(here: Bench, provider: FakeBatches) -> None:
    provider.stands, provider.end = False, lambda batch: Ending()
    job = finish(here, make_job(here))
    sweep(here)
    assert here.store.list("batches/") == [f"batches/{job.id}/notes.json"]
    transition_job(here.jobs, job.id, JobStatus.FAILED)
    sweep(here)
    assert here.store.list("batches/") == []


def test_one_that_is_being_written_down_is_left_to_its_worker(
    here: Bench, provider: FakeBatches
) -> None:
    """Which may not know yet that the job has ended, and reserves and sends it a moment later."""
    job = attempt(here, make_job(here))
    delete_account(here.ledger, job.id)
    cancel(here, job)
    sweep(here)
    assert len(here.store.list("batches/")) == 3
    assert provider.batches[0].status == "validating"


def test_a_teacher_that_is_away_is_asked_again_later(here: Bench, provider: FakeBatches) -> None:
    job = attempt(here, make_job(here))
    cancel(here, job)
    provider.key, right = "sk-another-0123456789", provider.key
    sweep(here)
    provider.key = right
    sweep(here)
    assert provider.batches[0].status == "cancelling"


def test_a_teacher_that_is_not_configured_any_more_leaves_the_record(
    here: Bench, provider: FakeBatches
) -> None:
    job = attempt(here, make_job(here))
    cancel(here, job)
    BatchSweeper(here.jobs, here.store, here.ledger, {}).sweep()
    assert len(here.store.list("batches/")) == 3
    assert read_account(here, job).reserved.total > 0
