"""The interface of a generation engine; closing a token stream cancels its request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Literal, Protocol, runtime_checkable

from qcrd.records.students.answer_form import AnswerForm
from services.teacher.metrics.batches import BatchMetrics

EngineFinishReason = Literal["eos_token", "length", "content_filter"]
UNKNOWN_TOKEN_ID = -1
"""Id of a token whose id the engine does not report; nothing else is negative on the wire."""
DEFAULT_MAX_CHOICES = 128
"""Most samples of one prompt in a request, of an engine without slots: as many as OpenAI takes
(`n` in its openapi.yaml)."""
ANY_JSON_OBJECT: Mapping[str, Any] = {
    "type": "object",
    "properties": {},
    "additionalProperties": True,
}
"""The schema of OpenAI's `json_object`."""
DEFAULT_MAX_POSITIONS = 512
"""Longest sequence in tokens of a model whose configuration states none: models with relative
positions (T5) do not, and this is the longest that T5 was trained for."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token.

    `text` is what this token adds to the output: "" for the earlier pieces of a character that
    spans several tokens, the whole character with its last piece. `logprob` is natural, None when
    the engine cannot tell. `finish_reason` is set on the last token of a stream that ended by
    itself: with the model's end token (then also `special`), or because no more tokens fit.
    `generated_tokens` and `prompt_tokens` come with the last token of an upstream: the tokens it
    has generated (a chunk may hold several) and read; `counts_estimated` where it did not tell them
    and they were counted here. Of these tokens `reasoning_tokens` were thoughts, and
    `cached_tokens` cost less, where it tells them. `is_reasoning`: a thought, no part of the text.
    """

    id: int
    text: str
    logprob: float | None = None
    special: bool = False
    finish_reason: EngineFinishReason | None = None
    top_tokens: tuple[Token, ...] = ()
    generated_tokens: int | None = None
    prompt_tokens: int | None = None
    counts_estimated: bool = False
    is_reasoning: bool = False
    free_logprob: float | None = None
    """What the model gave it before penalties, grammars and sampling, where that was asked for."""
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class SimpleToken:
    """One prompt token; `start` and `stop` are byte offsets into the text, (0, 0) if not in it or
    where the tokenizer does not tell."""

    id: int
    text: str
    start: int
    stop: int


def get_byte_offsets(text: str) -> Sequence[int]:
    """Where each character of `text` begins in its UTF-8 bytes, and last where they end."""
    if text.isascii():
        return range(len(text) + 1)
    return [0, *accumulate(len(character.encode()) for character in text)]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Parameters of the choice of the next token. None and the neutral value mean the same: off.

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
    presence_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """A grammar of the whole output: a JSON schema as JSON text, or a regular expression.

    `name` and `is_strict` are what OpenAI's `json_schema` says beside its schema.
    """

    kind: Literal["json", "regex"]
    value: str
    name: str | None = None
    is_strict: bool | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Chat messages as the OpenAI wire has them, and the functions the model may call."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ValidGenerateRequest:
    """A request that passed validation. `prompt_token_ids` is None when the engine has no
    tokenizer.

    The engine stops by itself at `max_new_tokens` or with a token that has a `finish_reason`.
    `stop` is a hint for engines whose chunks hold several tokens or that are paid for what they
    write; the strings themselves are matched above. An
    `adapter_id` that is not in `EngineInfo.adapters` means the base model, as in TGI.
    `conversation` is set only for an engine whose `apply_chat_template` returned None; `prompt` is
    then "". `answer_form` and `tells_free_logprobs` are a published student's, whose engine alone
    reads them.
    """

    prompt: str
    prompt_token_ids: tuple[int, ...] | None
    max_new_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    top_n_tokens: int = 0
    grammar: Grammar | None = None
    adapter_id: str | None = None
    conversation: Conversation | None = None
    answer_form: AnswerForm | None = None
    tells_free_logprobs: bool = False


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Description of the loaded engine: limits in tokens; `engine` is the name in TEACHER_ENGINE.

    `supports_token_ids`, `supports_logprobs`, `supports_seed`, `grammar` and `prefill`
    (log-probabilities of the prompt) say what the engine really has; what it lacks is null, empty
    or refused, never invented. `adapters` are the ids it takes as `adapter_id`. `pipeline_tag` is
    the hub's word for what the model does. `max_choices`: samples of one prompt in a request.
    """

    model_id: str
    engine: str
    max_input_tokens: int
    max_total_tokens: int
    supports_token_ids: bool = True
    supports_logprobs: bool = True
    supports_seed: bool = True
    supports_grammar: bool = False
    passes_chat_schema: bool = False
    """Whether a chat's schema goes on to an upstream, which may or may not enforce it."""
    adapters: tuple[str, ...] = ()
    model_sha: str | None = None
    pipeline_tag: str | None = "text-generation"
    supports_prompt_logprobs: bool = False
    max_choices: int = DEFAULT_MAX_CHOICES
    max_output_tokens: int | None = None
    """What an encoder-decoder can write at most, whatever its prompt; None: what is left of the
    total."""
    states_context: bool = True
    """Whether the limits are the engine's own; those of an upstream that does not state them are a
    guess, by which no prompt is refused."""


class Engine(Protocol):
    """Nothing here may block the event loop; every coroutine may be cancelled at any await."""

    batch_metrics: BatchMetrics

    @property
    def info(self) -> EngineInfo:
        """Known only after `start`."""
        ...

    async def start(self) -> None:
        """Load the model. Raises `Invalid` when it can never load; anything else is a bug."""
        ...

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> Sequence[SimpleToken] | None:
        """The prompt's tokens as the model sees them; None when the engine has no tokenizer.

        `special`: with the tokens the tokenizer adds by itself (a chat template brings its own).
        """
        ...

    async def apply_chat_template(self, conversation: Conversation) -> str | None:
        """The prompt of a conversation, from the model's own chat template.

        None when only the upstream knows the template (`Generation.conversation`). Raises
        `TemplateFailed` when the model has no template or it refuses the conversation.
        """
        ...

    async def score_prompt(self, request: ValidGenerateRequest) -> Sequence[Token]:
        """The prompt's tokens with their log-probabilities, the first one's None; empty when the
        engine reports none. Raises `GenerationFailed`.
        """
        ...

    async def check_grammar(self, grammar: Grammar) -> None:
        """Raises `Refused` when `grammar` does not compile."""
        ...

    def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        """Tokens as they come. Closing the generator takes the request out of the engine.

        Raises `GenerationFailed`, and `Overloaded` when an upstream has no capacity left.
        """
        ...

    async def close(self) -> None:
        """Free the engine; streams still open end without a last token."""
        ...


@runtime_checkable
class RemoteEngine(Protocol):
    """An engine whose far end may want money for every token: its health is asked for free."""

    async def check_reachable(self) -> bool:
        """Whether the far end answers. Never raises, takes seconds at most."""
        ...


@runtime_checkable
class FallibleEngine(Protocol):
    """An engine of which a part may end by itself, and which has to be started anew then: it calls
    `on_failure` with the reason, from any thread."""

    on_failure: Callable[[str], None]


@runtime_checkable
class ChoiceEngine(Protocol):
    """An engine that asks once for several samples of a prompt. Of the others each sample is a
    request; those that read prompts themselves share the reading."""

    def submit_choices(
        self, requests: Sequence[ValidGenerateRequest]
    ) -> Sequence[AsyncGenerator[Token, None]]:
        """One stream for each of `requests`, which differ in their seeds alone. Each may be closed
        by itself."""
        ...


@runtime_checkable
class PrefillCounter(Protocol):
    """An engine that counts the prompt tokens it has read, of which no token tells."""

    @property
    def prefilled_tokens(self) -> int: ...
