"""The choices of a streamed answer, also from servers that tell little about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from qcrd.method.reasoning import join_reasoning
from qcrd.records.teachers.token_counts import read_token_count
from services.api.assembling.teacher.teacher_client import Completion
from services.api.assembling.tokens.token_counts import TokenEstimator
from services.api.assembling.tokens.token_sums import Tokens

FAILED_REASONS = frozenset({"content_filter", "error", "insufficient_system_resource"})
"""Of a choice that is no answer: a filter, OpenRouter's provider, DeepSeek's machines."""
MAX_CHARACTERS = 2**20
"""Kept of a choice: the longest answer that a spec asks for has fewer."""


@dataclass
class StreamedChoice:
    reply: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    chunks: int = 0
    """Chunks with text: no fewer tokens than these were written."""
    characters: int = 0

    @property
    def text(self) -> str:
        return join_reasoning("".join(self.reasoning), "".join(self.reply))

    def add(self, choice: Any) -> None:
        """A chunk of a chat, of which `delta` has the text, or of a completion."""
        delta = getattr(choice, "delta", None)
        reply = getattr(choice, "text", None) if delta is None else getattr(delta, "content", None)
        # DeepSeek, SGLang and llama.cpp name it with the suffix, vLLM, Groq and OpenRouter without.
        reasoning = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        if isinstance(reply, list):
            reasoning, reply = _split_parts(reply)
        refusal = getattr(delta, "refusal", None)
        for text, pieces in ((reasoning, self.reasoning), (reply or refusal, self.reply)):
            if isinstance(text, str) and text:
                pieces.append(text[: max(0, MAX_CHARACTERS - self.characters)])
                self.chunks += 1
                self.characters += len(text)
        self.finish_reason = getattr(choice, "finish_reason", None) or self.finish_reason


def _split_parts(parts: Iterable[Any]) -> tuple[str, str]:
    """Reasoning and reply of a content in parts, as Mistral's reasoning models stream it."""
    reasoning, reply = list[str](), list[str]()
    for part in parts:
        if isinstance(part, dict) and part.get("type") == "thinking":
            inner = part.get("thinking")
            texts = inner if isinstance(inner, list) else [{"text": inner}]
            reasoning += [str(each.get("text") or "") for each in texts if isinstance(each, dict)]
        elif isinstance(part, dict):
            reply.append(str(part.get("text") or ""))
    return "".join(reasoning), "".join(reply)


@dataclass
class StreamedAnswer:
    choices: dict[int, StreamedChoice] = field(default_factory=dict)
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    is_estimated: bool = False
    """Whether a teacher server of ours counted for a server behind it that did not."""
    is_counted: bool = False
    """Whether a usage came by itself, which is a last one."""

    @property
    def characters(self) -> int:
        return sum(choice.characters for choice in self.choices.values())

    def cut(self) -> None:
        """End the choices that go on: nothing more of them is read."""
        for choice in self.choices.values():
            choice.finish_reason = choice.finish_reason or "length"

    @property
    def chunks(self) -> int:
        return sum(choice.chunks for choice in self.choices.values())

    def add(self, chunk: Any) -> None:
        choices = getattr(chunk, "choices", None) or ()
        for choice in choices:
            index = getattr(choice, "index", None) or 0
            self.choices.setdefault(index, StreamedChoice()).add(choice)
        if (usage := getattr(chunk, "usage", None)) is not None:
            self._add_usage(usage, is_running=bool(choices))

    def _add_usage(self, usage: Any, *, is_running: bool) -> None:
        """A count beside text runs on and replaces the one before, until one comes by itself. Of
        these llama.cpp's server sends one per choice, and they are summed. Where the total is more
        than prompt and completion, as xAI and Gemini have it, the rest is reasoning, which is paid
        as well."""
        prompt = _read_count(usage, "prompt_tokens") or None
        written = _read_count(usage, "completion_tokens")
        if prompt is None or written is None:
            return
        written = max(written, (_read_count(usage, "total_tokens") or 0) - prompt)
        self.prompt_tokens = prompt
        self.is_estimated = bool(getattr(usage, "estimated", False))
        details = getattr(usage, "prompt_tokens_details", None)
        self.cached_tokens = min(_read_count(details, "cached_tokens") or 0, prompt)
        is_one_of_several = self.is_counted and not is_running and len(self.choices) > 1
        earlier = (self.completion_tokens or 0) if is_one_of_several else 0
        self.completion_tokens = written + earlier
        self.is_counted = not is_running

    def take_finished(self) -> dict[int, StreamedChoice]:
        """By their indices, in order. Where the usage came, the answer ended in order, and a server
        that names no reason has finished all of them."""
        ended = self.is_counted
        return {
            index: choice
            for index, choice in sorted(self.choices.items())
            if choice.finish_reason not in FAILED_REASONS and (choice.finish_reason or ended)
        }

    @property
    def told_usage(self) -> Tokens | None:
        """Of an answer that ended in order, whether or not it is one."""
        if not self.is_counted or self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return Tokens(
            self.prompt_tokens, self.completion_tokens, self.is_estimated, self.cached_tokens
        )

    @property
    def is_filtered(self) -> bool:
        return any(choice.finish_reason == "content_filter" for choice in self.choices.values())


def _read_count(usage: Any, name: str) -> int | None:
    return read_token_count(getattr(usage, name, None))


async def build_completions(
    answer: StreamedAnswer, prompt_text: str, estimator: TokenEstimator
) -> tuple[Completion, ...]:
    """The finished choices, with the prompt's tokens on the first, and all that was written shared
    out among them by their lengths."""
    finished = answer.take_finished()
    if not finished:
        return ()
    prompt_tokens, written = answer.prompt_tokens, answer.completion_tokens
    estimated = prompt_tokens is None or written is None or written < answer.chunks
    estimated |= answer.is_estimated
    if prompt_tokens is None:
        prompt_tokens = await estimator.count(prompt_text)
    if written is None or written < answer.chunks:
        # None, or of one choice only: what came is counted, choice by choice.
        counts = [await estimator.count(choice.text) for choice in answer.choices.values()]
        written = max(sum(counts), answer.chunks, written or 0)
    shares = _share_out(written, [len(choice.text) + 1 for choice in finished.values()])
    return tuple(
        Completion(
            text=choice.text,
            finish_reason=choice.finish_reason or "stop",
            prompt_tokens=0 if place else prompt_tokens,
            completion_tokens=share,
            estimated=estimated,
            cached_tokens=0 if place else answer.cached_tokens,
            choice=index,
        )
        for place, ((index, choice), share) in enumerate(zip(finished.items(), shares, strict=True))
    )


def _share_out(total: int, weights: list[int]) -> list[int]:
    shares = [total * weight // sum(weights) for weight in weights]
    shares[0] += total - sum(shares)
    return shares
