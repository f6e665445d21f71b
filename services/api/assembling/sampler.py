"""Ask one teacher for many samples: as many at once as it takes, through refusals and outages."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qcrd.errors import QcrdError, Transient
from services.api.assembling.budget import Purse
from services.api.assembling.concurrency_limit import Window
from services.api.assembling.sampling_plan import Sampling, Wanted
from services.api.assembling.teacher_client import (
    Answer,
    Overloaded,
    Stumbled,
    TeacherClient,
    Unreachable,
)


@dataclass(frozen=True)
class Pace:
    """All in seconds. Past `outage` without the teacher, or `refusals` without one answer, the
    stage gives way to other jobs and comes back later."""

    look: float = 0.5
    first_wait: float = 0.25
    longest_wait: float = 10.0
    longest_told: float = 60.0
    """Most of a Retry-After that is obeyed: a teacher that asks for an hour is asked sooner."""
    outage: float = 60.0
    refusals: float = 120.0

    def wait(self, tries: int) -> float:
        """Doubled each time, with jitter, so that many refused at once do not return at once."""
        longest = min(self.longest_wait, self.first_wait * 2.0 ** min(tries, 30))
        return longest * random.uniform(0.5, 1.0)


TRIES = 4
"""Failures of one request, on a teacher that is up, after which the request is to blame."""


class Asking:
    """One round of questions. `keep` gets each answer at once; `look` is called while waiting and
    before every request, with the reason of an outage or None, and ends the round by raising."""

    def __init__(
        self,
        client: TeacherClient,
        sampling: Sampling,
        *,
        teacher: str,
        concurrency: int,
        keep: Callable[[Wanted, Answer], None],
        look: Callable[[str | None], None],
        pace: Pace,
        purse: Purse,
    ) -> None:
        self._client = client
        self._sampling = sampling
        self._teacher = teacher
        self._concurrency = concurrency
        self._keep = keep
        self._look = look
        self._pace = pace
        self._purse = purse
        self._settled = asyncio.Condition()
        self._window = Window(concurrency)
        self._probing = asyncio.Lock()
        self._outages = 0
        self._down: str | None = None
        self._answered_at = asyncio.get_running_loop().time()

    async def run(self, wanted: Sequence[Wanted]) -> None:
        """Until every one is answered and kept. Raises what `look` raises; `Transient` when the
        teacher stays away; `OverBudget` when the next one could cost too much, once nothing is in
        flight any more; `QcrdError` when it refuses for good."""
        todo = deque(wanted)
        workers = min(self._concurrency, len(todo))
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                await asyncio.gather(*(group.create_task(self._work(todo)) for _ in range(workers)))
                watch.cancel()
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _watch(self) -> None:
        while True:
            self._look(self._down)
            await asyncio.sleep(self._pace.look)

    async def _work(self, todo: deque[Wanted]) -> None:
        while todo:
            await self._answer(todo.popleft())

    async def _afford(self, wanted: Wanted) -> None:
        """Wait until those in flight have cost less than they might have."""
        async with self._settled:
            while not self._purse.reserve(wanted):
                if not self._purse.in_flight:
                    raise self._purse.over()
                await self._settled.wait()

    async def _settle(self, wanted: Wanted, answer: Answer | None, *, lost: bool) -> None:
        self._purse.settle(wanted, answer, lost=lost)
        async with self._settled:
            self._settled.notify_all()

    async def _answer(self, wanted: Wanted) -> None:
        """Until it is answered and kept."""
        refused = failed = 0
        while True:
            outages = self._outages
            try:
                return await self._paid(wanted)
            except Overloaded as error:
                refused += 1
                self._patient(error)
                told = min(error.retry_after or 0.0, self._pace.longest_told)
                await asyncio.sleep(max(told, self._pace.wait(refused)))
            except (Unreachable, Stumbled) as error:
                failed += 1
                if isinstance(error, Unreachable):
                    await self._outlast(error, outages)
                if failed >= TRIES:
                    raise _to_blame(error) from error
                await asyncio.sleep(self._pace.wait(failed))

    async def _paid(self, wanted: Wanted) -> None:
        """One try, within the budget."""
        await self._afford(wanted)
        answer, lost = None, False
        try:
            answer = await self._try(wanted)
            # At once: settling waits, and may be cancelled while it does.
            self._keep(wanted, answer)
        except (Unreachable, Stumbled) as error:
            lost = error.begun
            raise
        finally:
            await self._settle(wanted, answer, lost=lost)

    async def _try(self, wanted: Wanted) -> Answer:
        async with self._window.slot() as ticket:
            # A process that stood still may find the job gone, and has to pay for nothing then.
            self._look(self._down)
            try:
                answer = await self._client.generate(wanted, self._sampling)
            except Overloaded:
                self._window.shrink(ticket)
                raise
            self._window.grow()
            self._answered_at = asyncio.get_running_loop().time()
            return answer

    def _patient(self, error: Overloaded) -> None:
        silent = asyncio.get_running_loop().time() - self._answered_at
        if silent > self._pace.refusals:
            raise Transient(f"{error.message} and has answered nothing for {silent:.0f} s")

    async def _outlast(self, error: Unreachable, outages: int) -> None:
        """Return when the same teacher answers again. One worker asks, the others wait for it."""
        async with self._probing:
            if outages != self._outages:
                return
            self._down = error.message
            try:
                await self._probe(error)
            finally:
                self._down = None
            self._outages += 1
            self._answered_at = asyncio.get_running_loop().time()

    async def _probe(self, error: Unreachable) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._pace.outage
        tries = 0
        while loop.time() < give_up:
            try:
                teacher = await self._client.fingerprint()
            except Unreachable as still:
                error, tries = still, tries + 1
                await asyncio.sleep(self._pace.wait(tries))
                continue
            if teacher != self._teacher:
                # What is asked from now on belongs to another set: the stage starts over.
                raise Transient("the teacher came back with another model", retry_after=1.0)
            return
        raise Transient(error.message, code="teacher_unreachable")


def _to_blame(error: Unreachable | Stumbled) -> QcrdError:
    if isinstance(error, Unreachable):
        return Transient(error.message, code="teacher_unreachable")
    return QcrdError(
        f"{error.message} ({TRIES} times in a row for the same prompt); what was answered so far "
        "is kept, so the same job costs only the rest",
        code="teacher_failed",
    )
