"""What a worker asks and keeps that may be told to stop at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from qcrd.errors import Interrupted
from qcrd.records.job import Usage
from qcrd.records.spec import Budget
from services.api.assembling.budget import TokenBudget
from services.api.assembling.sampler import BackoffPolicy, TeacherSampler
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.assembling.teacher_client import Completion, TeacherClient
from services.api.settings import TeacherConfig
from tests.scripted_teacher import ScriptedTeacher

QUESTIONS = [SampleRequest(f"question {number}", 0) for number in range(5)]


@pytest.fixture
def teacher() -> Iterator[ScriptedTeacher]:
    made = ScriptedTeacher(lambda prompt, seed: " x")
    yield made
    made.close()


class Watched(TokenBudget):
    """Writes down how much had been kept when each request was settled."""

    def __init__(self, teacher: TeacherConfig, kept: list[SampleRequest]) -> None:
        super().__init__(Budget(), teacher, 8, Usage())
        self.kept, self.seen = kept, list[int]()

    def settle(
        self, request: SampleRequest, completion: Completion | None, *, partial: bool = False
    ) -> None:
        super().settle(request, completion, partial=partial)
        self.seen.append(len(self.kept))


def ask(
    teacher: ScriptedTeacher, kept: list[SampleRequest], look: Callable[[str | None], None]
) -> Watched:
    """One request at a time. The look by the clock is a minute away."""
    named = TeacherConfig(url=teacher.url)
    purse = Watched(named, kept)

    async def round_() -> None:
        client = TeacherClient("default", named)
        asking = TeacherSampler(
            client,
            SamplingParams(temperature=0.7, top_p=None, max_new_tokens=8, stop=()),
            teacher_fingerprint=await client.fetch_fingerprint(),
            concurrency=1,
            on_completion=lambda wanted, answer: kept.append(wanted),
            poll=look,
            backoff=BackoffPolicy(poll_interval=60.0),
            budget=purse,
        )
        try:
            await asking.run(QUESTIONS)
        finally:
            await client.close()

    asyncio.run(round_())
    return purse


def test_no_request_follows_the_look_that_says_stop(teacher: ScriptedTeacher) -> None:
    kept: list[SampleRequest] = []

    def look(down: str | None) -> None:
        if kept:
            raise Interrupted("the job is another worker's")

    with pytest.raises(Interrupted):
        ask(teacher, kept, look)
    assert len(kept) == len(teacher.requests) == 1


def test_an_answer_is_kept_before_anything_else_is_waited_for(teacher: ScriptedTeacher) -> None:
    """Settling waits its turn, and whoever waits may be cancelled; what is paid is kept by then."""
    kept: list[SampleRequest] = []
    assert ask(teacher, kept, lambda down: None).seen == [1, 2, 3, 4, 5]
