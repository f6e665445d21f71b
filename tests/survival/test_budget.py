"""A budget under kills: whatever dies, the teacher generates no more than the job may pay."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from qcrd.records.job import Job, JobStatus
from tests.scripted_teacher import ANSWER_TOKENS, PROMPT_TOKENS
from tests.survival.runs import Data, asked_for
from tests.survival.system import CONCURRENCY, System, patiently, until

REQUESTS = 24
"""That the budget covers, of the 72 answers that the job wants."""
CALLS_BEFORE_KILL = 6


@dataclass(frozen=True)
class Budgeted:
    """A job with a budget, and what the teacher wrote down of it."""

    system: System
    id: str
    room: int
    budget: int

    def job(self) -> Job:
        job = self.system.job(self.id)
        assert job.usage.teacher_tokens + job.usage.uncertain <= self.budget
        return job

    def count_calls(self, what: str) -> int:
        lines = self.system.teacher_record.read_text().splitlines()
        calls = [json.loads(line) for line in lines]
        return sum(call["room"] == self.room and call["what"] == what for call in calls)

    def generated(self) -> int:
        """A call reads its prompt and streams one token before what it finishes with."""
        started, finished = self.count_calls("started"), self.count_calls("finished")
        return started * (PROMPT_TOKENS + 1) + finished * (ANSWER_TOKENS - 1)

    def wait_for_pause(self) -> Job:
        return until(
            lambda: job if (job := self.job()).status is JobStatus.PAUSED else None, self.system
        )

    def resume(self, **body: Any) -> None:
        url = f"{self.system.url()}/v1/fine_tuning/jobs/{self.id}/resume"
        patiently(lambda: httpx2.post(url, json=body, timeout=30).raise_for_status())


def begin(system: System, data: Data) -> Budgeted:
    """The teacher has no tokenizer, so a prompt is taken to have a third of its bytes."""
    room, body = asked_for(data)
    too_small = httpx2.post(
        f"{system.url()}/v1/fine_tuning/jobs",
        json={**body, "budget": {"teacher_tokens": 1}},
        timeout=30,
    )
    assert too_small.json()["error"]["code"] == "budget_too_small"
    message = too_small.json()["error"]["message"]
    budget = REQUESTS * int(message.split(" = ")[1].split()[0].replace(",", ""))
    answer = httpx2.post(
        f"{system.url()}/v1/fine_tuning/jobs",
        json={**body, "budget": {"teacher_tokens": budget}},
        timeout=30,
    )
    return Budgeted(system, answer.raise_for_status().json()["id"], room, budget)


def kill_while_asking(run: Budgeted, part: str, calls: int) -> None:
    until(lambda: run.count_calls("started") >= calls, run.system, pause=0.01)
    run.system.parts[part].kill()


def check(run: Budgeted, job: Job) -> None:
    known = job.usage.teacher_tokens + job.usage.uncertain
    assert run.generated() <= known <= run.budget


@pytest.mark.parametrize("part", ["assembler", "teacher"])
def test_a_budget_holds_through_kills_pauses_and_resumes(
    part: str, system: System, data: Data, rng: random.Random
) -> None:
    run = begin(system, data)
    for kill in range(2):
        kill_while_asking(run, part, (kill + 1) * CALLS_BEFORE_KILL + rng.randrange(3))
    paused = run.wait_for_pause()
    check(run, paused)
    assert paused.usage.uncertain > 0
    assert "budget" in str(paused.paused_because)
    print(f"{part}: {paused.usage}, {run.generated()} generated")

    calls = run.count_calls("started")
    run.resume()
    again = _wait_for(run, lambda job: job.lease.token > paused.lease.token)
    assert again.usage == paused.usage
    assert run.count_calls("started") == calls

    run.resume(release_uncertain=True)
    released = _wait_for(run, lambda job: job.lease.token > again.lease.token)
    assert released.usage.uncertain == 0
    assert run.count_calls("started") > calls
    assert run.count_calls("started") - calls <= 2 * CONCURRENCY * paused.usage.uncertain


def _wait_for(run: Budgeted, holds: Callable[[Job], bool]) -> Job:
    """Paused again, by the attempt that `holds` tells."""
    return until(
        lambda: job if holds(job := run.job()) and job.status is JobStatus.PAUSED else None,
        run.system,
    )
