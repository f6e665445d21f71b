"""Two jobs that want the same of a teacher: one of them asks, and the other takes what it got."""

from __future__ import annotations

from typing import Any

import pytest

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs import commands
from tests.unit.api.assembling.assembling_bench import Bench, MakeBench
from tests.unit.api.assembling.test_stage import sums


def asks_now(here: Bench, job: Job) -> None:
    """As a worker that has just begun: the turn is the job's, and nothing is answered yet."""
    here.teacher.kill()
    assert here.run(job).waiting
    here.teacher.start()


def test_the_second_waits_and_reuses(bench: MakeBench) -> None:
    here = bench()
    training = here.file(sums(5))
    first, second = here.job(training), here.job(training)
    asks_now(here, first)
    waiting = here.run(second)
    assert (waiting.status, waiting.stage) == (JobStatus.QUEUED, Stage.ASSEMBLING)
    assert waiting.waiting == (
        f"job {first.id} asks the teacher the same questions; its outputs will be reused"
    )
    assert not here.teacher.requests
    assert here.run(first).stage is Stage.TRAINING
    after = here.run(second)
    assert after.stage is Stage.TRAINING
    assert here.teacher.answered == 25
    assert here.manifest(after).counts.reused == 25


@pytest.mark.parametrize(
    "other",
    [{"rationales": {"temperature": 0.3}}, {"task": {"answer": "number", "instruction": "Add."}}],
)
def test_who_asks_for_something_else_does_not_wait(bench: MakeBench, other: dict[str, Any]) -> None:
    here = bench()
    training = here.file(sums(5))
    asks_now(here, here.job(training))
    assert here.run(here.job(training, **other)).stage is Stage.TRAINING
    assert here.run(here.job(here.file(sums(6)))).stage is Stage.TRAINING


def test_one_that_is_paused_over_or_gone_keeps_nobody_waiting(bench: MakeBench) -> None:
    here = bench()
    training = here.file(sums(5))
    paused, resumed, cancelled, deleted = (here.job(training) for _ in range(4))
    asks_now(here, paused)
    commands.transition_job(here.jobs, paused.id, JobStatus.PAUSED)
    asks_now(here, resumed)
    commands.transition_job(here.jobs, resumed.id, JobStatus.PAUSED)
    commands.transition_job(here.jobs, resumed.id, JobStatus.QUEUED)
    asks_now(here, cancelled)
    commands.transition_job(here.jobs, cancelled.id, JobStatus.CANCELLED)
    asks_now(here, deleted)
    here.jobs.delete(deleted.id)
    assert here.run(here.job(training)).stage is Stage.TRAINING
