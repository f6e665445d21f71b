"""Several samples of one prompt from an upstream: in one request where it takes `n`, else in more.

How many choices came is counted, never assumed: some servers refuse `n` (Gemini 3), some are silent
and answer with one (Ollama), llama.cpp takes as many as it has slots. What an upstream takes is
learnt once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from services.teacher.engines.base import DEFAULT_MAX_CHOICES, Token, ValidGenerateRequest
from services.teacher.errors import InputValidationError, PromptTooLong, TeacherError, first_error

Ask = Callable[[Sequence[ValidGenerateRequest]], AsyncGenerator[tuple[int, Token], None]]


@dataclass
class LearntChoices:
    """The most choices that an upstream has answered one request with, as far as is known."""

    most: int = DEFAULT_MAX_CHOICES

    def lower(self, most: int) -> None:
        self.most = max(1, min(self.most, most))


class ChoiceGroup:
    """`ask` makes one request for some of `requests` and gives their choices' tokens by index."""

    def __init__(
        self, requests: Sequence[ValidGenerateRequest], learnt: LearntChoices, ask: Ask
    ) -> None:
        self._requests, self._learnt, self._ask = requests, learnt, ask
        self._inboxes: list[asyncio.Queue[Token | None]] = [asyncio.Queue() for _ in requests]
        self._begun: set[int] = set()
        self._open = len(requests)
        self._task: asyncio.Task[None] | None = None

    def open_streams(self) -> list[AsyncGenerator[Token, None]]:
        """The choices' streams, to be read at the same time. The first one read begins to ask;
        when all are closed, what still comes is cancelled."""
        return [self._stream(index) for index in range(len(self._requests))]

    async def _stream(self, index: int) -> AsyncGenerator[Token, None]:
        task = self._start()
        try:
            while (token := await self._inboxes[index].get()) is not None:
                yield token
            task.result()
        finally:
            self._open -= 1
            if not self._open:
                task.cancel()
                await asyncio.wait({task})

    def _start(self) -> asyncio.Task[None]:
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(lambda _: self._close_inboxes())
        return self._task

    def _close_inboxes(self) -> None:
        for inbox in self._inboxes:
            inbox.put_nowait(None)

    async def _run(self) -> None:
        try:
            await self._ask_all(range(len(self._requests)))
        except* TeacherError as errors:
            raise first_error(errors) from None

    async def _ask_all(self, indices: Sequence[int]) -> None:
        """Ask for `indices` at once, in as few requests as the upstream is known to take."""
        size = self._learnt.most
        async with asyncio.TaskGroup() as group:
            for start in range(0, len(indices), size):
                group.create_task(self._ask_some(indices[start : start + size]))

    async def _ask_some(self, indices: Sequence[int]) -> None:
        """One request for `indices`, and others for those that did not come."""
        try:
            missing = await self._read(indices)
        except PromptTooLong:
            raise
        except InputValidationError:
            if len(indices) == 1 or self._begun.intersection(indices):
                raise
            # Perhaps `n` is refused, perhaps something else, which is refused again.
            half = len(indices) // 2
            await self._ask_some(indices[:half])
            self._learnt.lower(half)
            missing = indices[half:]
        await self._ask_all(missing)

    async def _read(self, indices: Sequence[int]) -> Sequence[int]:
        """Pass on what comes; returns the indices of which nothing came."""
        async with aclosing(self._ask([self._requests[index] for index in indices])) as answer:
            async for place, token in answer:
                self._begun.add(indices[place])
                self._inboxes[indices[place]].put_nowait(token)
        missing = [index for index in indices if index not in self._begun]
        if len(missing) == len(indices):  # It broke off: the streams end without a last token.
            return ()
        if missing:
            self._learnt.lower(len(indices) - len(missing))
        return missing
