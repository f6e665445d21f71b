"""Queue of the requests that are still to be made, in the order of their prompts.

A request is taken from the plan when the one before it is in work, so that no more of them are held
than are worked on. What is put back stands where its prompt stood: a server that keeps what it has
read of a prompt then still has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from weakref import WeakKeyDictionary

from qcrd.records.teachers.prompt import TeacherPrompt
from services.api.assembling.sampling_plan import PromptRequest


class PendingRequests:
    def __init__(self, requests: Iterable[PromptRequest]) -> None:
        self._rest = iter(requests)
        self._places: WeakKeyDictionary[TeacherPrompt, int] = WeakKeyDictionary()
        """Of the prompts that somebody holds: those in the queue and in work."""
        self._newest = -1
        self._ticket = count()
        self._queue: asyncio.PriorityQueue[tuple[int, int, PromptRequest]] = asyncio.PriorityQueue()
        self._take_next()

    def _take_next(self) -> None:
        """Queue the next request of the plan. One always waits, so that the queue is not taken for
        done before the plan is."""
        if (request := next(self._rest, None)) is not None:
            self._newest += 1
            self._places[request.prompt] = self._newest
            self.put(request)

    def put(self, request: PromptRequest) -> None:
        # A prompt that two questions have may be forgotten with the first: it comes last then.
        place = self._places.get(request.prompt, self._newest)
        self._queue.put_nowait((place, next(self._ticket), request))

    async def get(self, most: int) -> PromptRequest:
        """The next request, of at most so many samples; the others of its prompt come next. Waits
        for one: those in work may be put back."""
        place, _, request = await self._queue.get()
        if place == self._newest:
            self._take_next()
        first, *others = request.split(most)
        for other in others:
            self.put(other)
        return first

    def mark_done(self) -> None:
        """What `get` gave is completed, or put back."""
        self._queue.task_done()

    async def wait_until_done(self) -> None:
        await self._queue.join()
