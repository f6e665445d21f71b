"""Queue of the requests that are still to be made, in the order of their prompts.

What is put back stands where its prompt stood: a server that keeps what it has read of a prompt
then still has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count

from services.api.assembling.sampling_plan import PromptRequest


class PendingRequests:
    def __init__(self, requests: Sequence[PromptRequest]) -> None:
        self._places = {request.prompt: place for place, request in enumerate(requests)}
        self._ticket = count()
        self._queue: asyncio.PriorityQueue[tuple[int, int, PromptRequest]] = asyncio.PriorityQueue()
        for request in requests:
            self.put(request)

    def put(self, request: PromptRequest) -> None:
        self._queue.put_nowait((self._places[request.prompt], next(self._ticket), request))

    async def get(self, most: int) -> PromptRequest:
        """The next request, of at most so many samples; the others of its prompt come next. Waits
        for one: those in work may be put back."""
        *_, request = await self._queue.get()
        first, *others = request.split(most)
        for other in others:
            self.put(other)
        return first

    def mark_done(self) -> None:
        """What `get` gave is completed, or put back."""
        self._queue.task_done()

    async def wait_until_done(self) -> None:
        await self._queue.join()
