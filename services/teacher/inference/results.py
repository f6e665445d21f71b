"""What a generation came to: its text, its tokens, and how many of them there were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import NamedTuple

from services.teacher.engines.base import Token, ValidGenerateRequest
from services.teacher.inference.stopping import FinishReason, GenerationStep


class TokenCounts(NamedTuple):
    """Tokens read, None where nobody has counted them, and generated; those of them that an
    upstream says were cached, and thoughts."""

    prompt: int | None
    completion: int
    cached: int | None = None
    reasoning: int | None = None
    estimated: bool = False
    """Whether an upstream left some of them out, and they were counted here."""


@dataclass
class RequestTimings:
    """Moments of one request, in seconds of the monotonic clock."""

    arrived_at: float = field(default_factory=monotonic)
    validated_at: float = 0.0
    first_token_at: float = 0.0
    finished: bool = False

    def durations(self) -> dict[str, float]:
        now = monotonic()
        first = self.first_token_at or now
        return {
            "total": now - self.arrived_at,
            "validation": self.validated_at - self.arrived_at,
            "queue": first - self.validated_at,
            "inference": now - self.validated_at,
        }


@dataclass(frozen=True)
class GenerationResult:
    """A finished generation, choice `index` of its request. `best_of_sequences` are the less
    likely ones of `best_of`."""

    request: ValidGenerateRequest
    tokens: Sequence[Token]
    text: str
    finish_reason: FinishReason
    durations: dict[str, float]
    prefill: Sequence[Token] = ()
    best_of_sequences: tuple[GenerationResult, ...] = ()
    index: int = 0

    @property
    def generated_tokens(self) -> int:
        return count_generated_tokens(self.tokens[-1], len(self.tokens))

    @property
    def input_length(self) -> int | None:
        """Prompt tokens, None when neither this server nor its upstream has counted them."""
        return get_input_length(self.request, self.tokens[-1], self.index)

    @property
    def token_counts(self) -> TokenCounts:
        return count_tokens(self.request, self.tokens[-1], len(self.tokens), self.index)

    @property
    def counts_estimated(self) -> bool:
        return self.tokens[-1].counts_estimated

    @property
    def reasoning(self) -> str:
        """What an upstream's model thought before it answered; no part of the text."""
        return "".join(token.text for token in self.tokens if token.is_reasoning)

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the tokens whose log-probability is known."""
        known = [token.logprob for token in self.tokens if token.logprob is not None]
        return sum(known) / len(known) if known else -math.inf


@dataclass(slots=True)
class ChoiceStep:
    """One token of choice `index` of a request."""

    index: int
    request: ValidGenerateRequest
    step: GenerationStep
    timings: RequestTimings

    @property
    def token_counts(self) -> TokenCounts:
        """Complete with the choice's last token."""
        return count_tokens(self.request, self.step.token, self.step.index, self.index)


def count_tokens(
    request: ValidGenerateRequest, last: Token, step_count: int, index: int = 0
) -> TokenCounts:
    """What choice `index` has cost, by its last token."""
    return TokenCounts(
        get_input_length(request, last, index),
        count_generated_tokens(last, step_count),
        last.cached_tokens,
        last.reasoning_tokens,
        last.counts_estimated,
    )


def count_generated_tokens(last: Token, step_count: int) -> int:
    """Tokens generated: an upstream's own count where it reports one."""
    return step_count if last.generated_tokens is None else last.generated_tokens


def get_input_length(request: ValidGenerateRequest, last: Token, index: int = 0) -> int | None:
    """Prompt tokens: an upstream's own count where it tells one, which is what it wants paid.

    Those that are counted here belong to the first choice: the others share its reading.
    """
    if last.prompt_tokens is None and request.prompt_token_ids is not None:
        return 0 if index else len(request.prompt_token_ids)
    return last.prompt_tokens


def select_most_likely(results: Sequence[GenerationResult]) -> GenerationResult:
    """The most likely generation, with the others as its `best_of_sequences`."""
    first, *others = sorted(results, key=lambda result: result.mean_logprob, reverse=True)
    return replace(first, best_of_sequences=tuple(others))
