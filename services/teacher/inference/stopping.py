"""TGI's stop rules over the token stream of any engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from services.teacher.engines.base import Engine, Token, ValidGenerateRequest
from services.teacher.errors import IncompleteGeneration

FinishReason = Literal["length", "eos_token", "stop_sequence", "content_filter"]


@dataclass(frozen=True, slots=True)
class GenerationStep:
    """One token, its 1-based index, the text so far; `finish_reason` only on the last one."""

    index: int
    token: Token
    text: str
    finish_reason: FinishReason | None


class StoppingCriteria:
    """TGI's rules in TGI's order: count, end token, text that ends with a stop string.

    The stop string stays in the text (server/utils/tokens.py 167-188).
    """

    def __init__(self, max_new_tokens: int, stop: tuple[str, ...]) -> None:
        self._max_new_tokens = max_new_tokens
        self._stop_sequences = stop
        self.text = ""
        self.token_count = 0

    def update(self, token: Token) -> FinishReason | None:
        self.token_count += 1
        if not token.special and not token.is_reasoning:
            self.text += token.text
        if self.token_count >= self._max_new_tokens:
            return "length"
        if token.finish_reason is not None:
            return token.finish_reason
        if token.is_reasoning:
            return None
        if token.text and not token.special and self.text.endswith(self._stop_sequences):
            return "stop_sequence"
        return None


async def stream_steps(
    engine: Engine, request: ValidGenerateRequest
) -> AsyncGenerator[GenerationStep, None]:
    """The steps of `request` alone."""
    async with aclosing(read_steps(engine.submit(request), request)) as steps:
        async for step in steps:
            yield step


async def read_steps(
    tokens: AsyncGenerator[Token, None], request: ValidGenerateRequest
) -> AsyncGenerator[GenerationStep, None]:
    """Closing this closes the engine's stream. Raises `IncompleteGeneration` and what the engine
    raises."""
    stopping = StoppingCriteria(request.max_new_tokens, request.stop)
    async with aclosing(tokens) as stream:
        async for token in stream:
            finish_reason = stopping.update(token)
            yield GenerationStep(stopping.token_count, token, stopping.text, finish_reason)
            if finish_reason is not None:
                return
    raise IncompleteGeneration
