"""OpenAI's streams as tokens, from servers that tell everything and from those that tell less."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import httpx2

from services.teacher.engines.base import (
    UNKNOWN_TOKEN_ID,
    EngineFinishReason,
    Token,
    ValidGenerateRequest,
)
from services.teacher.engines.upstream.token_counts import TokenCounter
from services.teacher.engines.upstream.wire import JSON, parse_finish_reason
from services.teacher.errors import ContentFiltered, GenerationFailed, TeacherError

STOP_WINDOW = 256
"""Characters kept to find a stop string that spans chunks."""
USAGE_TIMEOUT_SECONDS = 1.0
"""What an upstream may still take to count an answer whose stop string has come."""


@dataclass
class _PartialFunctionCall:
    """A function call that arrives in pieces."""

    name: str = ""
    arguments: str = ""

    def to_text(self) -> str:
        """As a model behind TGI's own grammar would write it."""
        try:
            arguments = json.loads(self.arguments or "{}")
        except ValueError as error:
            raise GenerationFailed("upstream called a function with arguments not JSON") from error
        return json.dumps({"function": {"_name": self.name, **arguments}}, ensure_ascii=False)


@dataclass
class OpenAIStreamParser:
    """A chunk counts as one token unless the upstream counts itself, in the usage it sends last.

    The last chunk is held back for that: the one that gives a reason, the `max_new_tokens`th, or
    the one that ends with a stop string. The end of the model is a token without text. Without a
    usage the tokens are counted here and marked as estimated.
    """

    request: ValidGenerateRequest
    counter: TokenCounter
    is_done: bool = False
    token_count: int = 0
    text: str = ""
    written: str = ""
    """Also what is behind a stop string: it has to be paid for."""
    pending: Token | None = None
    finish_reason: EngineFinishReason | None = None
    stop_reason: str | None = None
    is_filtered: bool = False
    refusal: str = ""
    usage: JSON = field(default_factory=dict)
    function_call: _PartialFunctionCall | None = None

    def mark_done(self) -> None:
        """The upstream has said that this was all."""
        self.is_done = True

    async def parse_stream(self, stream: AsyncIterator[JSON]) -> AsyncGenerator[Token, None]:
        async for event in stream:
            for token in self._parse_event(event):
                if self.pending is not None:
                    yield self.pending
                self.token_count += 1
                self.pending = token if self._is_last() else None
                if self.pending is None:
                    yield token
            if self._is_stopped():
                await self._read_usage(stream)
                break
        for token in await self._finish():
            yield token

    def _is_last(self) -> bool:
        return (
            self.finish_reason is not None
            or self.token_count == self.request.max_new_tokens
            or self._is_stopped()
        )

    def _is_stopped(self) -> bool:
        return bool(self.request.stop) and self.text.endswith(self.request.stop)

    def _parse_event(self, event: JSON) -> Iterator[Token]:
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or ():
            reason = choice.get("finish_reason")
            self.is_filtered = self.is_filtered or reason == "content_filter"
            self.finish_reason = parse_finish_reason(reason) or self.finish_reason
            if choice.get("stop_reason") in self.request.stop:
                self.stop_reason = choice["stop_reason"]
            token = self._parse_choice(choice)
            if token is not None:
                yield token

    def _parse_choice(self, choice: JSON) -> Token | None:
        delta = choice.get("delta") or {}
        self.refusal += delta.get("refusal") or ""
        for call in delta.get("tool_calls") or ():
            self.function_call = self.function_call or _PartialFunctionCall()
            function = call.get("function") or {}
            self.function_call.name += function.get("name") or ""
            self.function_call.arguments += function.get("arguments") or ""
        written = choice.get("text") or delta.get("content") or ""
        self.written += written
        text = cut_at_stop(written, self.text[-STOP_WINDOW:], self.request.stop)
        if not text:
            return None
        if not self._is_stopped():
            self.text += text
        logprob, top = _parse_logprobs(choice.get("logprobs") or {})
        return Token(UNKNOWN_TOKEN_ID, text, logprob, top_tokens=top)

    async def _read_usage(self, stream: AsyncIterator[JSON]) -> None:
        """Read on after a stop string, for what the upstream counts. One that does not stop by
        itself is left at its next word: those are paid for.
        """
        with suppress(TimeoutError, TeacherError, httpx2.HTTPError):
            async with asyncio.timeout(USAGE_TIMEOUT_SECONDS):
                async for event in stream:
                    if any(self._parse_event(event)):
                        return

    async def _finish(self) -> list[Token]:
        """What was held back, and the end of the model, with what was counted."""
        if self.is_filtered or self.refusal:
            raise ContentFiltered(self.refusal or "the upstream withholds its answer")
        if self.finish_reason is None and (self.is_done or self.usage):
            # It ended its answer in order and does not tell why; one without a choice is empty.
            self.finish_reason = "eos_token"
        if self.finish_reason is None and self.pending is None:
            return []
        counts = await self._count_tokens()
        return [replace(token, **counts) for token in self._iter_last_tokens()]

    def _iter_last_tokens(self) -> Iterator[Token]:
        if self.pending is not None:
            yield replace(
                self.pending,
                finish_reason=self.finish_reason if self.finish_reason == "length" else None,
            )
        if self.function_call is not None:
            yield Token(UNKNOWN_TOKEN_ID, self.function_call.to_text())
        if self.finish_reason is None or (
            self.finish_reason == "length" and self.pending is not None
        ):
            return
        if self.stop_reason is not None and not self._is_stopped():
            # Cut off by an upstream that says which one it was: TGI leaves it in the text.
            yield Token(UNKNOWN_TOKEN_ID, self.stop_reason)
        yield Token(UNKNOWN_TOKEN_ID, "", special=True, finish_reason=self.finish_reason)

    async def _count_tokens(self) -> JSON:
        """The counts of the last token. What an upstream leaves out or gives as 0 is estimated."""
        prompt_tokens = _parse_count(self.usage.get("prompt_tokens"))
        generated_tokens = _parse_count(self.usage.get("completion_tokens"))
        if not self.written and self.function_call is None:
            generated_tokens = generated_tokens or self.usage.get("completion_tokens")
        is_estimated = prompt_tokens is None or generated_tokens is None
        if prompt_tokens is None:
            prompt_tokens = await self.counter.count_prompt(self.request)
        if generated_tokens is None:
            call = "" if self.function_call is None else self.function_call.to_text()
            written = self.written + call
            generated_tokens = await self.counter.count_answer(written, self.token_count)
        return {
            "prompt_tokens": prompt_tokens,
            "generated_tokens": generated_tokens,
            "counts_estimated": is_estimated,
        }


def _parse_count(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _parse_logprobs(logprobs: JSON) -> tuple[float | None, tuple[Token, ...]]:
    """Of a chunk with one token, in the completions' or the chat's form; else unknown."""
    content = logprobs.get("content")
    if content and len(content) == 1:
        top = content[0].get("top_logprobs") or ()
        others = tuple(Token(UNKNOWN_TOKEN_ID, one["token"], one["logprob"]) for one in top)
        return content[0].get("logprob"), others
    values = logprobs.get("token_logprobs")
    if values and len(values) == 1:
        top_logprobs = (logprobs.get("top_logprobs") or [{}])[0] or {}
        return values[0], tuple(
            Token(UNKNOWN_TOKEN_ID, text, value) for text, value in top_logprobs.items()
        )
    return None, ()


def cut_at_stop(text: str, before: str, stop: Sequence[str]) -> str:
    """`text` up to the first end of a stop string in `seen` + `text`: chunks hold many tokens."""
    whole = before + text
    for end in range(len(before) + 1, len(whole) + 1):
        if stop and whole[:end].endswith(tuple(stop)):
            return whole[len(before) : end]
    return text
