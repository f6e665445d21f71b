"""How many requests a teacher gets at once."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from services.api.assembling.teacher.concurrency_limit import ConcurrencyLimit


@given(st.integers(1, 96), st.lists(st.booleans(), max_size=300))
def test_the_size_stays_between_one_and_the_most(most: int, refusals: list[bool]) -> None:
    async def play() -> None:
        window = ConcurrencyLimit(most)
        for refused in refusals:
            async with window.slot() as ticket:
                if refused:
                    window.shrink(ticket)
                else:
                    window.grow()
            assert 1 <= window.size <= most

    asyncio.run(play())


def test_refusals_of_one_burst_count_once_and_success_grows_it_back() -> None:
    """32 → 16 for the whole burst; 16 + 1/16 + … is 17 after about a windowful, 32 after ~400."""

    async def play() -> None:
        window = ConcurrencyLimit(32)
        async with window.slot() as first, window.slot() as second:
            window.shrink(first)
            window.shrink(second)
        assert window.size == 16
        for _ in range(400):
            window.grow()
        assert window.size == 32

    asyncio.run(play())


def test_no_more_slots_are_taken_than_the_size() -> None:
    async def play() -> int:
        window, taken, most = ConcurrencyLimit(4), 0, 0

        async def one(number: int) -> None:
            nonlocal taken, most
            async with window.slot() as ticket:
                taken += 1
                most = max(most, taken)
                if number == 3:
                    window.shrink(ticket)
                await asyncio.sleep(0)
                taken -= 1

        await asyncio.gather(*(one(number) for number in range(50)))
        return most

    assert asyncio.run(play()) <= 4


@given(st.integers(1, 96), st.lists(st.integers(1, 64), min_size=1, max_size=40))
def test_samples_in_flight_are_within_the_size_but_for_one_request_alone(
    most: int, requests: list[int]
) -> None:
    async def play() -> None:
        window, in_flight = ConcurrencyLimit(most), list[int]()

        async def one(samples: int) -> None:
            async with window.slot(lambda: samples):
                in_flight.append(samples)
                assert sum(in_flight) <= most or in_flight == [samples]
                await asyncio.sleep(0)
                in_flight.remove(samples)

        await asyncio.gather(*map(one, requests))

    asyncio.run(play())
