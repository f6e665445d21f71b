"""One request from first to last token: TGI's stop rules over any engine's stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from services.teacher.engines.base import Engine, Token, ValidGenerateRequest
from services.teacher.errors import IncompleteGeneration

Reason = Literal["length", "eos_token", "stop_sequence"]


@dataclass(frozen=True, slots=True)
class Step:
    """One token, its 1-based index, the text so far; `reason` only on the last one."""

    index: int
    token: Token
    text: str
    reason: Reason | None


class Stopping:
    """TGI's rules in TGI's order: count, end token, text that ends with a stop string.

    The stop string stays in the text (server/utils/tokens.py 167-188).
    """

    def __init__(self, max_new_tokens: int, stop: tuple[str, ...]) -> None:
        self._max_new_tokens = max_new_tokens
        self._stop = stop
        self.text = ""
        self.count = 0

    def after(self, token: Token) -> Reason | None:
        self.count += 1
        if not token.special:
            self.text += token.text
        if self.count >= self._max_new_tokens:
            return "length"
        if token.finish_reason is not None:
            return token.finish_reason
        if token.text and not token.special and self.text.endswith(self._stop):
            return "stop_sequence"
        return None


async def steps(engine: Engine, request: ValidGenerateRequest) -> AsyncGenerator[Step, None]:
    """Closing this closes the engine's stream. Raises `Incomplete` and what the engine raises."""
    stopping = Stopping(request.max_new_tokens, request.stop)
    async with aclosing(engine.submit(request)) as stream:
        async for token in stream:
            reason = stopping.after(token)
            yield Step(stopping.count, token, stopping.text, reason)
            if reason is not None:
                return
    raise IncompleteGeneration
