"""A budget under kills: whatever dies, the teacher generates no more than the job may pay."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from qcrd.records.job import Job, JobStatus, Stage
from tests.fakes.scripted_teacher import ANSWER_TOKENS, PROMPT_TOKENS
from tests.survival.stack.runs import Data, asked_for
from tests.survival.stack.system import System, until

REQUESTS = 6
"""That the budget covers at their full length, which none of the 72 answers has: it is enough for
most of them, and not when some of it is uncertain."""
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

    @property
    def url(self) -> str:
        return f"{self.system.url()}/v1/fine_tuning/jobs/{self.id}"

    def resume(self, **body: Any) -> int:
        """The lease that the job had until now."""
        lease = self.job().lease.token
        httpx2.post(f"{self.url}/resume", json=body, timeout=30).raise_for_status()
        return lease

    def wait_for_attempt(self, lease: int) -> Job:
        """The job when an attempt after `lease` has paused it, or has all answers."""

        def look() -> Job | None:
            job = self.job()
            is_over = job.status is JobStatus.PAUSED or job.stage is Stage.TRAINING
            return job if is_over and job.lease.token > lease else None

        job = until(look, self.system)
        assert job is not None
        return job


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


def check(run: Budgeted, job: Job) -> None:
    known = job.usage.teacher_tokens + job.usage.uncertain
    assert run.generated() <= known <= run.budget


@pytest.mark.parametrize("part", ["assembler", "teacher"])
def test_a_budget_holds_through_kills_pauses_and_resumes(
    part: str, system: System, data: Data, rng: random.Random
) -> None:
    run = begin(system, data)
    calls = CALLS_BEFORE_KILL + rng.randrange(4)
    until(lambda: run.count_calls("started") >= calls, system, pause=0.01)
    system.parts[part].kill()
    paused = run.wait_for_attempt(0)
    print(f"{part}: {paused.usage} of {run.budget}, {run.generated()} generated")
    check(run, paused)
    assert paused.usage.uncertain > 0
    assert "budget" in str(paused.paused_because)

    for _ in range(2):
        before, paused = paused, run.wait_for_attempt(run.resume())
        check(run, paused)
        assert paused.usage.uncertain == before.usage.uncertain

    calls = run.count_calls("started")
    released = run.wait_for_attempt(run.resume(release_uncertain=True))
    assert released.usage.uncertain == 0
    assert run.count_calls("started") > calls
    httpx2.post(f"{run.url}/cancel", timeout=30)
