"""What a worker asks and keeps that may be told to stop at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

import pytest

from qcrd.errors import Interrupted, Transient
from qcrd.records.job import Usage
from qcrd.records.specs.spec import Budget
from qcrd.records.teachers.prompt import TeacherPrompt
from qcrd.runtime.redis.generation_buffer import AccountUpdate, MemoryGenerationBuffer
from services.api.assembling.backoff_policy import BackoffPolicy
from services.api.assembling.sampler import TeacherSampler
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest, SamplingParams
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.teacher.teacher_client import (
    Completion,
    StreamProgress,
    TeacherClient,
    TeacherInfo,
    match_samples,
)
from services.api.assembling.teacher.teacher_errors import TeacherUnreachable
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.settings import TeacherConfig
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.assembling.assembling_bench import a_job

QUESTIONS = [
    PromptRequest((SampleRequest(TeacherPrompt(f"question {number}"), 0),)) for number in range(5)
]


@pytest.fixture
def teacher() -> Iterator[ScriptedTeacher]:
    made = ScriptedTeacher(lambda prompt, seed: " x")
    yield made
    made.close()


class Watched(MemoryGenerationBuffer):
    """Writes down what had been answered and kept at each change of the account."""

    def __init__(self, teacher: ScriptedTeacher, kept: list[SampleRequest]) -> None:
        super().__init__()
        self.teacher, self.kept, self.seen = teacher, kept, list[tuple[int, int]]()

    def update_account(self, update: AccountUpdate) -> None:
        super().update_account(update)
        self.seen.append((self.teacher.answered, len(self.kept)))


def ask(
    teacher: ScriptedTeacher,
    kept: list[SampleRequest],
    look: Callable[[str | None], None],
    concurrency: int = 1,
    buffer: Watched | None = None,
) -> Watched:
    """The look by the clock is a minute away."""
    buffer = buffer or Watched(teacher, kept)

    async def round_() -> None:
        client = make_teacher_client("default", TeacherConfig(url=teacher.url))
        try:
            await sample(client, QUESTIONS, kept, buffer, look=look, concurrency=concurrency)
        finally:
            await client.close()

    asyncio.run(round_())
    return buffer


async def sample(
    client: TeacherClient,
    requests: Sequence[PromptRequest],
    kept: list[SampleRequest],
    buffer: MemoryGenerationBuffer,
    *,
    look: Callable[[str | None], None] = lambda outage: None,
    concurrency: int,
) -> None:
    config = TeacherConfig(url="http://teacher")
    account = TokenAccount.open(buffer, a_job(lease=1), Usage(), config)
    sampler = TeacherSampler(
        client,
        SamplingParams(temperature=0.7, top_p=None, max_new_tokens=8, stop=()),
        teacher_fingerprint=(await client.fetch_info()).fingerprint,
        concurrency=concurrency,
        on_completions=lambda samples: kept.extend(wanted for wanted, _ in samples),
        poll=look,
        backoff=BackoffPolicy(poll_interval=60.0),
        budget=TokenBudget(Budget(), config, account),
        prompt_tokens=PromptTokenCounter(client, asks_teacher=False),
    )
    await sampler.run(requests)


class CountingClient:
    """A teacher that gives `given` samples of a prompt per request, and says so when it is asked
    for more. Counts what it works on at once."""

    def __init__(self, hoped: int, given: int) -> None:
        self.max_choices, self.given = hoped, given
        self.working = self.most = self.requests = 0

    async def fetch_info(self) -> TeacherInfo:
        return TeacherInfo("model")

    async def check_upstream(self) -> None: ...

    async def count_tokens(self, texts: Sequence[str], *, concurrency: int = 1) -> list[int]:
        return [1 for _ in texts]

    async def generate(
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        came = request.samples[: self.given]
        self.requests += 1
        self.working += len(came)
        self.most = max(self.most, self.working)
        for _ in range(5):
            await asyncio.sleep(0)
        self.working -= len(came)
        self.max_choices = self.given if len(request.samples) > self.given else self.max_choices
        progress.completions = tuple(Completion("x", "stop", 1, 1) for _ in came)

    async def close(self) -> None: ...


class BreakingClient(CountingClient):
    """Its first answer breaks off when the third and the fourth of five choices have ended."""

    def __init__(self) -> None:
        super().__init__(5, 5)
        self.asked = list[tuple[int, ...]]()

    async def generate(
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        self.asked.append(tuple(each.index for each in request.samples))
        ended = (2, 3) if len(self.asked) == 1 else range(len(request.samples))
        progress.completions = tuple(Completion("x", "stop", 1, 1, choice=place) for place in ended)
        if len(self.asked) == 1:
            raise TeacherUnreachable("it broke off")


@pytest.mark.anyio
async def test_choices_that_ended_before_an_answer_broke_off_are_the_samples_that_they_are() -> (
    None
):
    client, kept = BreakingClient(), list[SampleRequest]()
    prompt = TeacherPrompt("prompt")
    wanted = PromptRequest(tuple(SampleRequest(prompt, n) for n in range(5)))
    await sample(client, [wanted], kept, MemoryGenerationBuffer(), concurrency=5)
    assert [each.index for each in kept] == [2, 3, 0, 1, 4]
    assert client.asked == [(0, 1, 2, 3, 4), (0, 1), (4,)]


def test_a_completion_is_of_the_sample_that_its_choice_says() -> None:
    def complete(*choices: int) -> list[Completion]:
        return [Completion("x", "stop", 1, 1, choice=choice) for choice in choices]

    def match(*choices: int) -> list[str]:
        return [sample for sample, _ in match_samples("abc", complete(*choices))]

    assert match(0, 1, 2) == ["a", "b", "c"]
    assert match(1, 2) == ["b", "c"]
    assert match(1, 2, 3) == match(0, 0, 0) == ["a", "b", "c"], "numbered by another rule"
    assert match() == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("hoped", "given", "samples", "concurrency", "requests"),
    [
        (64, 64, 5, 10, 8),
        (64, 1, 5, 10, 40),
        (64, 64, 64, 32, 16),
        (64, 4, 5, 10, 16),
        (1, 1, 3, 96, 24),
    ],
)
async def test_concurrency_counts_samples_however_many_a_request_gives(
    hoped: int, given: int, samples: int, concurrency: int, requests: int
) -> None:
    """Of eight prompts. What a teacher turns out not to give is asked for at full concurrency."""
    client, kept = CountingClient(hoped, given), list[SampleRequest]()
    prompts = [TeacherPrompt(f"prompt {number}") for number in range(8)]
    wanted = [
        PromptRequest(tuple(SampleRequest(prompt, n) for n in range(samples))) for prompt in prompts
    ]
    await sample(client, wanted, kept, MemoryGenerationBuffer(), concurrency=concurrency)
    assert sorted(each.key for each in kept) == sorted(
        each.key for request in wanted for each in request.samples
    )
    assert client.requests == requests
    full = min(concurrency, 8 * samples)
    assert full - min(given, samples) < client.most <= full


def test_no_request_follows_the_look_that_says_stop(teacher: ScriptedTeacher) -> None:
    kept: list[SampleRequest] = []

    def look(down: str | None) -> None:
        if kept:
            raise Interrupted("the job is another worker's")

    with pytest.raises(Interrupted):
        ask(teacher, kept, look)
    assert len(kept) == len(teacher.requests) == 1


def test_an_answer_is_kept_before_anything_else_is_waited_for(teacher: ScriptedTeacher) -> None:
    """What follows waits its turn, and may be cancelled; what is paid is kept by then. The first
    change opens the account, each of the others is made before a request leaves."""
    kept: list[SampleRequest] = []
    seen = ask(teacher, kept, lambda down: None).seen
    assert seen == [(0, 0), *((number, number) for number in range(5))]


def test_requests_that_leave_together_are_written_at_once(teacher: ScriptedTeacher) -> None:
    kept: list[SampleRequest] = []
    seen = ask(teacher, kept, lambda down: None, concurrency=5).seen
    assert seen == [(0, 0), (0, 0)]
    assert len(kept) == 5


def test_a_request_whose_reservation_cannot_be_written_does_not_leave(
    teacher: ScriptedTeacher,
) -> None:
    class Full(Watched):
        def update_account(self, update: AccountUpdate) -> None:
            if any(name.startswith("open:") for name in update.values):
                raise Transient("Redis takes no writes")
            super().update_account(update)

    with pytest.raises(Transient, match="takes no writes"):
        ask(teacher, [], lambda down: None, buffer=Full(teacher, []))
    assert teacher.requests == []
