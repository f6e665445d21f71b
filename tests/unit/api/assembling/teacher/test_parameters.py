"""What is sent to a server, after what it refused and what it gave."""

from __future__ import annotations

import asyncio

import pytest

from qcrd.errors import QcrdError, Transient
from services.api.assembling.teacher.openai.parameters import ParameterSupport
from services.api.assembling.teacher.teacher_errors import find_other_style


def make_support(most: int = 1) -> tuple[ParameterSupport, list[str]]:
    told: list[str] = []
    return ParameterSupport(told.append, max_choices=most), told


def test_what_answers_told_outlives_what_the_server_says_after_an_outage() -> None:
    support, told = make_support()
    support.offer_choices(16)
    assert support.max_choices == 16
    support.learn_choices(asked=5, came=1)
    support.offer_choices(16)
    assert support.max_choices == 1
    assert len(told) == 1


def test_a_server_may_offer_fewer_than_it_did() -> None:
    support, _ = make_support()
    support.offer_choices(16)
    support.offer_choices(4)
    assert support.max_choices == 4


@pytest.mark.anyio
async def test_requests_wait_for_the_first_answer_to_begin_and_not_to_end() -> None:
    support, _ = make_support()
    entered, begun = list[int](), asyncio.Event()

    async def ask(number: int) -> None:
        async with support.take_turn():
            entered.append(number)
            await begun.wait()
            support.settle()
            await asyncio.sleep(0 if number else 30)

    tasks = [asyncio.create_task(ask(number)) for number in range(4)]
    await asyncio.sleep(0)
    assert entered == [0]
    begun.set()
    await asyncio.gather(*tasks[1:])
    assert entered == [0, 1, 2, 3]
    assert not tasks[0].done()
    tasks[0].cancel()


@pytest.mark.anyio
async def test_after_a_refusal_the_next_in_line_has_its_turn() -> None:
    support, _ = make_support()
    entered = list[int]()

    async def ask(number: int) -> None:
        async with support.take_turn():
            entered.append(number)
            await asyncio.sleep(0)
            raise ValueError("refused")

    results = await asyncio.gather(*map(ask, range(3)), return_exceptions=True)
    assert entered == [0, 1, 2]
    assert all(isinstance(each, ValueError) for each in results)


@pytest.mark.anyio
async def test_a_refusal_for_good_is_that_of_all_who_waited() -> None:
    support, _ = make_support()
    entered = list[int]()

    async def ask(number: int, error: QcrdError) -> None:
        async with support.take_turn():
            entered.append(number)
            await asyncio.sleep(0)
            raise error

    errors = [Transient("busy"), QcrdError("a wrong key"), QcrdError("never told")]
    results = await asyncio.gather(*map(ask, range(3), errors), return_exceptions=True)
    assert entered == [0, 1]
    assert results == [errors[0], errors[1], errors[1]]


@pytest.mark.parametrize(
    ("told", "style"),
    [
        ("Template error: template not found", "completion"),
        ("This is a chat model and not supported in the v1/completions endpoint", "chat"),
        (
            "as of transformers v4.44, you must provide a chat template",
            "completion",
        ),
    ],
)
def test_the_style_that_a_refusal_asks_for(told: str, style: str) -> None:
    assert find_other_style(told) == style
