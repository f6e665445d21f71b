"""The interface of a teacher's client, whichever protocol the teacher speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.api.assembling.sampling_plan import PromptRequest, SamplingParams
from services.api.assembling.tokens.token_sums import Tokens

SampleT = TypeVar("SampleT")
Notify = Callable[[str], None]
"""Takes a sentence about what was learnt of a teacher, for the job's events."""


@dataclass
class StreamProgress:
    """What is known of one request's cost while it runs, also when it breaks off."""

    streamed_tokens: int = 0
    is_free: bool = False
    """Whether nothing can have been generated: it was refused, or never left."""
    completions: tuple[Completion, ...] = ()
    told: Tokens | None = None
    """What the teacher says that an answer cost which is none, such as one that it filtered."""


@dataclass(frozen=True)
class TeacherInfo:
    """Which model answers, by its digest, its limits in tokens where it states them, whether it
    holds a text to a grammar and a chat to a JSON schema, and how many samples of a prompt a
    request gets for sure: a client may hope for more. `models`: the names that it takes, where it
    lists them."""

    fingerprint: str
    max_input_tokens: int | None = None
    max_total_tokens: int | None = None
    has_grammar: bool = False
    enforces_schema: bool = False
    sure_choices: int = 1
    models: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Completion:
    """One generated text with what it cost, in tokens; `estimated` where they were not told. Of
    several for one prompt the first has the prompt's tokens, which are paid once. What a model
    wrote before its reply stands in `text` as a `<think>` block."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    cached_tokens: int = 0
    """Of the prompt's, as the provider tells them."""
    choice: int = 0
    """Which of the samples that were asked for together, from 0 on."""


def match_samples(
    samples: Sequence[SampleT], completions: Sequence[Completion]
) -> list[tuple[SampleT, Completion]]:
    """Each completion with its sample: of an answer that broke off those that had ended need not be
    the first. A server that numbers its choices otherwise gives them in order."""
    choices = {each.choice for each in completions}
    if len(choices) < len(completions) or max(choices, default=0) >= len(samples):
        return list(zip(samples, completions, strict=False))
    return [(samples[each.choice], each) for each in completions]


class TeacherClient(Protocol):
    """A client for concurrent requests; call `close` when the last one is done."""

    @property
    def max_choices(self) -> int:
        """Samples of a prompt that one request may ask for. It falls when the teacher is found to
        give fewer."""
        ...

    async def fetch_info(self) -> TeacherInfo:
        """`TeacherUnreachable` when no model answers."""
        ...

    async def check_upstream(self) -> None:
        """`TeacherUnreachable` while the server behind the teacher is away."""
        ...

    async def count_tokens(self, texts: Sequence[str], *, concurrency: int = 1) -> list[int]:
        """Of each text, as the teacher's own tokenizer counts them. Costs no generation.

        `NoTokenizer` where it has none. A text that is too large even for its route has as many
        tokens as bytes, which none exceeds.
        """
        ...

    async def generate(
        self, request: PromptRequest, sampling: SamplingParams, progress: StreamProgress
    ) -> None:
        """Fill `progress`, whatever this raises; its completions say of which samples of `request`
        they are, at least one where it raises nothing."""
        ...

    async def close(self) -> None: ...
