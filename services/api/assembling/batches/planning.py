"""Which of the missing samples the next batch asks for: as many as it and the budget have room
for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.api.assembling.batches.shard import (
    SampleRef,
    Shard,
    ShardLine,
    make_shard_name,
)
from services.api.assembling.sampling_plan import PromptRequest, SamplingParams
from services.api.assembling.teacher.openai.batches import MAX_FILE_BYTES, MAX_LINES, BatchClient
from services.api.assembling.teacher.prompt_tokens import PromptTokenCounter
from services.api.assembling.tokens.token_budget import TokenBudget
from services.api.assembling.tokens.token_sums import NOTHING, Tokens


@dataclass
class _Room:
    """What is left in a batch's file."""

    lines: int
    bytes: int

    def take(self, size: int) -> bool:
        if self.lines < 1 or self.bytes < size:
            return False
        self.lines -= 1
        self.bytes -= size
        return True


@dataclass(frozen=True)
class ShardPlanner:
    client: BatchClient
    sampling: SamplingParams
    budget: TokenBudget
    prompt_tokens: PromptTokenCounter
    job_id: str
    max_lines: int = MAX_LINES
    max_bytes: int = MAX_FILE_BYTES

    async def plan(self, requests: Iterable[PromptRequest], max_lines: int | None) -> Shard | None:
        """The first of `requests`, in their order. None when the budget covers not even one sample
        of the first."""
        room = _Room(min(self.max_lines, max_lines or self.max_lines), self.max_bytes)
        lines, reserved = list[ShardLine](), NOTHING
        for request in self._split(requests):
            line = await self._fit(request, reserved)
            if line is None or not room.take(self._measure(request, line)):
                break
            lines.append(line)
            reserved += line.reserved
        if not lines:
            return None
        keys = (sample.key for line in lines for sample in line.samples)
        return Shard(
            name=make_shard_name(self.job_id, self.budget.account.shard_count, keys),
            job_id=self.job_id,
            teacher_name=self.client.name,
            teacher=self.client.fingerprint,
            sampling=self.sampling.fingerprint,
            lines=tuple(lines),
            sent_at=time.time(),
        )

    async def count_smallest(self, request: PromptRequest) -> Tokens:
        """What one sample of it can take."""
        return (await self._make_line(request.split(1)[0])).reserved

    def _split(self, requests: Iterable[PromptRequest]) -> Iterator[PromptRequest]:
        for request in requests:
            yield from request.split(self.client.support.max_choices)

    async def _fit(self, request: PromptRequest, reserved: Tokens) -> ShardLine | None:
        """For as many of its samples as the budget covers."""
        for count in range(len(request.samples), 0, -1):
            line = await self._make_line(request.split(count)[0])
            if self.budget.has_room(reserved + line.reserved):
                return line
        return None

    def _measure(self, request: PromptRequest, line: ShardLine) -> int:
        sent = request.split(len(line.samples))[0]
        return len(self.client.build_line(line.custom_id, sent, self.sampling))

    async def _make_line(self, request: PromptRequest) -> ShardLine:
        prompt = await self.prompt_tokens.count(request.prompt.text)
        return ShardLine(
            samples=tuple(SampleRef(key=each.key, index=each.index) for each in request.samples),
            prompt_tokens=prompt.prompt,
            prompt_bytes=len(request.prompt.text.encode()),
            max_new_tokens=self.sampling.max_new_tokens,
        )
