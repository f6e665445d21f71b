"""How much one batch asks for."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from qcrd.records.job import Usage
from qcrd.records.specs.spec import Budget
from qcrd.records.teachers.prompt import ChatMessage, TeacherPrompt
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from services.api.assembling.batches.planning import ShardPlanner
from services.api.assembling.batches.shard import SampleRef, Shard, make_custom_id
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest, SamplingParams
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.openai.batches import make_batch_client
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.settings import TeacherConfig
from tests.unit.api.assembling.assembling_bench import a_job

TEACHER = TeacherConfig(url="http://127.0.0.1:9", api="openai", model="m", batch=True)
SAMPLING = SamplingParams(0.7, None, 10, ())


def make_request(text: str, samples: int = 1) -> PromptRequest:
    prompt = TeacherPrompt.from_messages((ChatMessage("user", text),))
    return PromptRequest(tuple(SampleRequest(prompt, index) for index in range(samples)))


def make_planner(
    budget: Budget = Budget(),  # noqa: B008
    **limits: int,
) -> tuple[ShardPlanner, TokenAccount]:
    account = TokenAccount.open(MemoryGenerationBuffer(), a_job(lease=1), Usage(), TEACHER)
    counter = PromptTokenCounter(make_teacher_client("t", TEACHER), asks_teacher=False)
    purse = TokenBudget(budget, TEACHER, account)
    client = make_batch_client("t", TEACHER, print)
    planner = ShardPlanner(client, SAMPLING, purse, counter, a_job(lease=1).id, **limits)
    return planner, account


async def plan(
    requests: Iterable[PromptRequest], budget: Budget | None = None, **limits: int
) -> Shard | None:
    planner, _ = make_planner(budget or Budget(), **limits)
    return await planner.plan(list(requests), None)


@pytest.mark.anyio
async def test_no_more_lines_than_a_batch_may_have() -> None:
    shard = await plan((make_request(f"q{number}") for number in range(51)), max_lines=50)
    assert shard is not None
    assert len(shard.lines) == 50
    assert len({line.custom_id for line in shard.lines}) == 50
    assert make_planner()[0].max_lines == 50_000


@pytest.mark.anyio
async def test_no_more_bytes_than_a_file_may_have() -> None:
    """Of lines with 70 kB two fit into 200 kB."""
    requests = [make_request(f"{number}{'x' * 70_000}") for number in range(3)]
    shard = await plan(requests, max_bytes=200_000)
    assert shard is not None
    assert len(shard.lines) == 2
    assert make_planner()[0].max_bytes == 200_000_000


@pytest.mark.anyio
async def test_of_a_prompt_as_many_samples_as_the_budget_covers() -> None:
    """`user: aaaa…` has 36 bytes, 12 tokens, and each sample 10: 3 samples take 42, 2 take 32."""
    requests = [make_request("a" * 30, samples=3)]
    for limit, samples in ((42, [3]), (41, [2]), (32, [2]), (22, [1]), (44, [3]), (64, [3])):
        shard = await plan(requests, Budget(teacher_tokens=limit))
        assert shard is not None
        assert [len(line.samples) for line in shard.lines] == samples
        assert shard.reserved.total <= limit
    assert await plan(requests, Budget(teacher_tokens=21)) is None


@pytest.mark.anyio
async def test_the_same_samples_again_have_another_name() -> None:
    planner, account = make_planner()
    requests = [make_request("q")]
    first = await planner.plan(requests, None)
    assert first is not None
    assert (await planner.plan(requests, None)) is not None
    account.reserve_shard(first.name, first.reserved)
    second = await planner.plan(requests, None)
    account.settle_shard(first.name)
    third = await planner.plan(requests, None)
    assert second is not None
    assert third is not None
    assert first.name != second.name == third.name


def test_a_line_says_which_samples_it_is_for() -> None:
    """Samples 0, 2 and 5: bits 1 + 4 + 32 = 0x25."""
    samples = make_request("q", samples=6).samples
    chosen = (samples[0], samples[2], samples[5])
    custom_id = make_custom_id(chosen)
    assert custom_id == f"{samples[0].key}-25"
    refs = [SampleRef(key=each.key, index=each.index) for each in chosen]
    assert make_custom_id(refs) == custom_id
    assert len(make_custom_id(make_request("q", samples=64).samples)) <= 64
