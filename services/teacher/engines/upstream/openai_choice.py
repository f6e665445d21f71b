"""One choice of an OpenAI-compatible stream as tokens, whatever its server tells of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from qcrd.records.teachers.token_counts import read_token_count
from services.teacher.engines.base import (
    UNKNOWN_TOKEN_ID,
    EngineFinishReason,
    Token,
    ValidGenerateRequest,
)
from services.teacher.engines.upstream.wire import JSON, parse_finish_reason
from services.teacher.errors import GenerationFailed

STOP_WINDOW = 256
"""Characters kept to find a stop string that spans chunks."""
REASONING_KEYS = ("reasoning_content", "reasoning")
"""Of a delta: DeepSeek, vLLM and SGLang write the first, OpenRouter and newer vLLM the second; one
that writes both says the same in them."""


@dataclass
class PartialFunctionCall:
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


@dataclass(eq=False)
class ChoiceParser:
    """A chunk counts as one token unless the upstream counts itself, in the usage it sends last.

    The last chunk is held back for that: the one that gives a reason, the `max_new_tokens`th, or
    the one that ends with a stop string. The end of the model is a token without text.
    """

    index: int
    request: ValidGenerateRequest
    has_come: bool = False
    token_count: int = 0
    text: str = ""
    written: str = ""
    """Also the reasoning, and what is behind a stop string: they have to be paid for."""
    pending: Token | None = None
    finish_reason: EngineFinishReason | None = None
    stop_reason: str | None = None
    refusal: str = ""
    usage: JSON = field(default_factory=dict)
    """What the upstream counts of this choice alone."""
    function_call: PartialFunctionCall | None = None

    @property
    def is_stopped(self) -> bool:
        return bool(self.request.stop) and self.text.endswith(self.request.stop)

    @property
    def is_withheld(self) -> bool:
        return self.finish_reason == "content_filter" or bool(self.refusal)

    @property
    def is_ended(self) -> bool:
        return self.finish_reason is not None or self.pending is not None

    def feed(self, choice: JSON) -> Iterator[Token]:
        """The tokens of one chunk's choice, but for one that may be the last and for what is
        behind a stop string."""
        self.has_come, was_stopped = True, self.is_stopped
        self.finish_reason = parse_finish_reason(choice.get("finish_reason")) or self.finish_reason
        if choice.get("stop_reason") in self.request.stop:
            self.stop_reason = choice["stop_reason"]
        for token in self._parse(choice):
            if was_stopped:
                continue
            if self.pending is not None:
                yield self.pending
            self.token_count += 1
            self.pending = token if self._is_last() else None
            if self.pending is None:
                yield token

    def _is_last(self) -> bool:
        return (
            self.finish_reason is not None
            or self.token_count == self.request.max_new_tokens
            or self.is_stopped
        )

    def _parse(self, choice: JSON) -> Iterator[Token]:
        delta = choice.get("delta") or {}
        self.refusal += delta.get("refusal") or ""
        self._add_calls(delta.get("tool_calls") or ())
        reasoning = next((delta[key] for key in REASONING_KEYS if delta.get(key)), "")
        if reasoning:
            self.written += reasoning
            yield Token(UNKNOWN_TOKEN_ID, reasoning, is_reasoning=True)
        written = choice.get("text") or delta.get("content") or ""
        self.written += written
        text = cut_at_stop(written, self.text[-STOP_WINDOW:], self.request.stop)
        if not text:
            return
        if not self.is_stopped:
            self.text += text
        logprob, top = _parse_logprobs(choice.get("logprobs") or {})
        yield Token(UNKNOWN_TOKEN_ID, text, logprob, top_tokens=top)

    def _add_calls(self, calls: Sequence[JSON]) -> None:
        for call in calls:
            self.function_call = self.function_call or PartialFunctionCall()
            function = call.get("function") or {}
            self.function_call.name += function.get("name") or ""
            self.function_call.arguments += function.get("arguments") or ""

    @property
    def paid_text(self) -> str:
        """All that the upstream wrote for this choice."""
        return self.written + ("" if self.function_call is None else self.function_call.to_text())

    def parse_count(self, usage: JSON) -> int | None:
        """Its tokens in `usage`; 0 only where it wrote nothing, None where they are not told."""
        count = read_token_count(usage.get("completion_tokens"))
        return None if count == 0 and self.paid_text else count

    def finish(self, counts: JSON) -> list[Token]:
        """What was held back, and the end of the model, with what was counted."""
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
        if self.stop_reason is not None and not self.is_stopped:
            # Cut off by an upstream that says which one it was: TGI leaves it in the text.
            yield Token(UNKNOWN_TOKEN_ID, self.stop_reason)
        reason: EngineFinishReason = "content_filter" if self.is_withheld else self.finish_reason
        yield Token(UNKNOWN_TOKEN_ID, "", special=True, finish_reason=reason)


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
