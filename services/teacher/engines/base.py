"""The port between the wire and what generates: five members, closing a stream is the cancel."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Ends = Literal["eos_token", "length"]
UNKNOWN_ID = -1
"""Id of a token whose id the engine cannot tell; nothing else is negative on the wire."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    `text` is what this token adds to the answer: "" for the earlier pieces of a character that
    spans several tokens, the whole character with its last piece. `logprob` is natural, None when
    the engine cannot tell. `ends` is set on the last token of a stream that ended by itself: with
    the model's end token (then also `special`), or because no more tokens fit.
    """

    id: int
    text: str
    logprob: float | None = None
    special: bool = False
    ends: Ends | None = None
    top: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """One prompt token; `start` and `stop` are byte offsets into the text, (0, 0) if not in it."""

    id: int
    text: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. None and the neutral value mean the same: off.

    `seed` is None exactly when `do_sample` is False.
    """

    do_sample: bool = False
    seed: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """A request that passed validation. `prompt_ids` is None when the engine has no tokenizer.

    The engine stops by itself at `max_new_tokens` or with a token that `ends`; `stop` is a hint for
    engines whose chunks hold several tokens, the strings themselves are matched above.
    """

    prompt: str
    prompt_ids: tuple[int, ...] | None
    max_new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    top_n_tokens: int = 0


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the loaded engine is: limits in tokens; `engine` is the name in TEACHER_ENGINE."""

    model_id: str
    engine: str
    max_input_tokens: int
    max_total_tokens: int
    token_ids: bool = True
    model_sha: str | None = None


class Engine(Protocol):
    """Nothing here may block the event loop; every coroutine may be cancelled at any await."""

    @property
    def info(self) -> EngineInfo:
        """Known only after `start`."""
        ...

    async def start(self) -> None:
        """Load. Raises `Invalid` when the model can never load, anything else is a crash."""
        ...

    async def tokenize(self, text: str) -> Sequence[Piece] | None:
        """The prompt's tokens as the model sees them; None when the engine has no tokenizer."""
        ...

    def submit(self, request: Generation) -> AsyncGenerator[Token, None]:
        """Tokens as they come. Closing the generator takes the request out of the engine.

        Raises `GenerationFailed`.
        """
        ...

    async def close(self) -> None:
        """Free the engine; streams still open end without a last token."""
        ...
