"""OpenAI's streams as tokens, from servers that tell everything and from those that tell less."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise

import httpx2

from qcrd.records.teachers.token_counts import read_token_count
from services.teacher.engines.base import Token, ValidGenerateRequest
from services.teacher.engines.upstream.openai_choice import ChoiceParser
from services.teacher.engines.upstream.token_counts import TokenCounter
from services.teacher.engines.upstream.wire import JSON
from services.teacher.errors import ContentFiltered, TeacherError

USAGE_TIMEOUT_SECONDS = 1.0
"""What an upstream may still take to count an answer whose stop string has come."""


class OpenAIStreamParser:
    """The stream of one answer with a choice for each of `requests`, which differ in seeds alone.

    An upstream counts its tokens in a usage: of all choices at the end (OpenAI, vLLM), or of each
    behind its end (llama.cpp). Without one they are counted here and marked as estimated.
    """

    def __init__(self, requests: Sequence[ValidGenerateRequest], counter: TokenCounter) -> None:
        self.choices = [ChoiceParser(index, request) for index, request in enumerate(requests)]
        self.is_done = False
        self._counter = counter
        self._usages: list[tuple[int, JSON]] = []
        self._last_ended = 0

    def mark_done(self) -> None:
        """The upstream has said that this was all."""
        self.is_done = True

    async def parse_stream(
        self, stream: AsyncIterator[JSON]
    ) -> AsyncGenerator[tuple[int, Token], None]:
        """Each choice's tokens with its index; none at all of a choice that did not come."""
        async for event in stream:
            for index, token in self._parse_event(event):
                yield index, token
            if all(choice.is_stopped for choice in self.choices):
                await self._read_usage(stream)
                break
        for index, token in await self._finish():
            yield index, token

    def _parse_event(self, event: JSON) -> Iterator[tuple[int, Token]]:
        fed = []
        for choice in event.get("choices") or ():
            index = choice.get("index") or 0
            if index < len(self.choices):
                fed.append(self.choices[index])
                if choice.get("finish_reason") is not None:
                    self._last_ended = index
                for token in self.choices[index].feed(choice):
                    yield index, token
        told = event.get("usage")
        usage: JSON = told if isinstance(told, dict) else {}
        if usage and len(fed) == 1 < len(self.choices):
            fed[0].usage = usage
        elif usage:
            self._usages.append((self._last_ended, usage))

    async def _read_usage(self, stream: AsyncIterator[JSON]) -> None:
        """Read on after a stop string, for what the upstream counts. One that does not stop by
        itself is left at its next word: those are paid for.
        """
        with suppress(TimeoutError, TeacherError, httpx2.HTTPError):
            async with asyncio.timeout(USAGE_TIMEOUT_SECONDS):
                async for event in stream:
                    written = [choice.written for choice in self.choices]
                    list(self._parse_event(event))
                    if written != [choice.written for choice in self.choices]:
                        return

    async def _finish(self) -> list[tuple[int, Token]]:
        """Raises `ContentFiltered` when the upstream withholds the whole answer."""
        come = [choice for choice in self.choices if choice.has_come] or self.choices
        if all(choice.is_withheld for choice in come):
            raise ContentFiltered(come[0].refusal or "the upstream withholds its answer")
        for choice in come:
            if choice.finish_reason is None and (self.is_done or self._usages):
                # It ended its answer in order and does not tell why; one without a choice is empty.
                choice.finish_reason = "eos_token"
        ended = [choice for choice in come if choice.is_ended]
        counts = await self._count_tokens(ended)
        return [
            (choice.index, token)
            for choice, count in zip(ended, counts, strict=True)
            for token in choice.finish(count)
        ]

    async def _count_tokens(self, ended: Sequence[ChoiceParser]) -> list[JSON]:
        """The counts of each choice's last token; the prompt's are the first one's, once. What an
        upstream leaves out or gives as 0 is estimated."""
        if not ended:
            return []
        usages = self._get_usages(ended)
        told = _get_told_counts(ended, usages)
        counts = told or [
            await self._counter.count_answer(choice.paid_text, choice.token_count)
            for choice in ended
        ]
        prompts = [_parse_count(usage.get("prompt_tokens")) for usage in usages]
        prompt_tokens = next((count for count in prompts if count is not None), None)
        is_estimated = told is None or prompt_tokens is None
        if prompt_tokens is None:
            prompt_tokens = await self._counter.count_prompt(ended[0].request)
        fields: list[JSON] = [
            {"prompt_tokens": 0, "generated_tokens": count, "counts_estimated": is_estimated}
            for count in counts
        ]
        fields[0] |= {"prompt_tokens": prompt_tokens, **_sum_details(usages)}
        return fields

    def _get_usages(self, ended: Sequence[ChoiceParser]) -> list[JSON]:
        """One of each choice where they are told so, else that of all together, if there is any."""
        if len(self._usages) > 1 and len(self.choices) > 1:
            for index, usage in self._usages:
                self.choices[index].usage = usage
        if all(choice.usage for choice in ended):
            return [choice.usage for choice in ended]
        return [usage for _, usage in self._usages[-1:]]


def _get_told_counts(ended: Sequence[ChoiceParser], usages: Sequence[JSON]) -> list[int] | None:
    """The upstream's own counts; None where it tells none, or fewer of several choices than
    chunks came."""
    if len(usages) == len(ended):
        own = [choice.parse_count(usage) for choice, usage in zip(ended, usages, strict=True)]
        return None if None in own else [count or 0 for count in own]
    chunks = [choice.token_count for choice in ended]
    total = ended[0].parse_count(usages[0]) if usages else None
    return None if total is None or total < sum(chunks) else apportion(total, chunks)


def _sum_details(usages: Sequence[JSON]) -> JSON:
    """Cached and reasoning tokens of a whole answer, where they are told; the prompt is one."""
    cached, reasoning = (
        [count for usage in usages if (count := _read_detail(usage, part, name)) is not None]
        for part, name in (
            ("prompt_tokens_details", "cached_tokens"),
            ("completion_tokens_details", "reasoning_tokens"),
        )
    )
    return {
        "cached_tokens": max(cached, default=None),
        "reasoning_tokens": sum(reasoning) if reasoning else None,
    }


def _read_detail(usage: JSON, part: str, name: str) -> int | None:
    details = usage.get(part)
    return read_token_count(details.get(name)) if isinstance(details, dict) else None


def _parse_count(value: object) -> int | None:
    return read_token_count(value) or None


def apportion(total: int, chunks: Sequence[int]) -> list[int]:
    """`total` tokens of several choices, in proportion to the chunks that came of each."""
    weights = chunks if any(chunks) else [1] * len(chunks)
    bounds = [total * weight // sum(weights) for weight in accumulate(weights)]
    return [bound - before for before, bound in pairwise([0, *bounds])]
