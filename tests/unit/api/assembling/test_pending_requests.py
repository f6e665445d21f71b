"""The order in which samples are asked for, and when none is left."""

from __future__ import annotations

import asyncio

import pytest

from qcrd.records.teachers.prompt import TeacherPrompt
from services.api.assembling.pending_requests import PendingRequests
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest


def make_request(text: str, samples: int) -> PromptRequest:
    return PromptRequest(tuple(SampleRequest(TeacherPrompt(text), n) for n in range(samples)))


def describe(request: PromptRequest) -> tuple[str, list[int]]:
    return request.prompt.text, [sample.index for sample in request.samples]


@pytest.mark.anyio
async def test_parts_of_a_prompt_and_what_is_put_back_come_before_the_next_prompt() -> None:
    pending = PendingRequests([make_request("z", 5), make_request("a", 2)])
    first = await pending.get(2)
    assert describe(first) == ("z", [0, 1])
    assert describe(await pending.get(2)) == ("z", [2, 3])
    pending.put(PromptRequest(first.samples[1:]))
    rest = [describe(await pending.get(2)) for _ in range(3)]
    assert rest == [("z", [4]), ("z", [1]), ("a", [0, 1])]


@pytest.mark.anyio
async def test_it_is_done_when_all_that_was_given_is_and_nothing_was_put_back() -> None:
    pending = PendingRequests([make_request("z", 2)])
    done = asyncio.ensure_future(pending.wait_until_done())
    request = await pending.get(2)
    pending.put(PromptRequest(request.samples[1:]))
    pending.mark_done()
    await asyncio.sleep(0)
    assert not done.done()
    await pending.get(2)
    pending.mark_done()
    await done


@pytest.mark.anyio
async def test_without_requests_it_is_done() -> None:
    await PendingRequests(()).wait_until_done()
