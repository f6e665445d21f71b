"""Request bodies of the OpenAI-compatible routes, as TGI reads them, with OpenAI's own fields.

`normalize_body` turns what OpenAI's own clients send into what these models take; strict mode goes
without it, and then refuses what TGI refuses.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from services.teacher.engines.base import ANY_JSON_OBJECT
from services.teacher.inference.wire import (
    F32,
    JSON,
    U32,
    U64,
    GenerateParameters,
    GrammarBody,
    WireModel,
)

FIELDS_UNKNOWN_TO_TGI = frozenset({"n", "grammar", "best_of", "echo", "logprobs"})
"""Of the completions route; of chat TGI knows `n` and marks it as unused (lib.rs)."""


N_DESCRIPTION = (
    "Choices of each prompt, 1 to `max_choices` of /info; choice i draws with `seed` + i."
)
GRAMMAR_DESCRIPTION = "Binds the whole text of each choice, as on /generate."
REFUSED_DESCRIPTION = "Refused, but for values that change nothing."
"""Strict mode ignores the fields with these three descriptions."""


class StreamOptions(WireModel):
    include_usage: bool = False


class BaseCompletionRequest(WireModel):
    """Fields of both routes."""

    model: str | None = None
    max_tokens: U32 | None = None
    temperature: F32 | None = None
    top_p: F32 | None = None
    frequency_penalty: F32 | None = None
    presence_penalty: F32 | None = None
    seed: U64 | None = None
    stop: tuple[str, ...] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: U32 | None = Field(None, description=N_DESCRIPTION)

    @property
    def max_new_tokens(self) -> int | None:
        """The maximum number of tokens to generate."""
        return self.max_tokens

    def to_parameters(self, **more: Any) -> GenerateParameters:
        """The native parameters: a temperature of exactly 0 is greedy, anything else samples."""
        greedy = self.temperature == 0
        return GenerateParameters(
            max_new_tokens=self.max_new_tokens,
            do_sample=not greedy,
            temperature=None if greedy else self.temperature,
            top_p=self.top_p,
            frequency_penalty=self.frequency_penalty,
            seed=self.seed,
            stop=self.stop or (),
            # TGI's router: `model` is the adapter, any unknown one the base model.
            adapter_id=None if self.model == "tgi" else self.model,
            **more,
        )


class CompletionRequest(BaseCompletionRequest):
    prompt: str | Annotated[tuple[str, ...], Field(min_length=1)]
    repetition_penalty: F32 | None = None
    suffix: str | None = None
    grammar: GrammarBody | None = Field(None, description=GRAMMAR_DESCRIPTION)
    best_of: U32 | None = Field(None, description=REFUSED_DESCRIPTION)
    echo: bool | None = Field(None, description=REFUSED_DESCRIPTION)
    logprobs: U32 | None = Field(None, description=REFUSED_DESCRIPTION)

    @property
    def prompts(self) -> tuple[str, ...]:
        return (self.prompt,) if isinstance(self.prompt, str) else self.prompt


class TextPart(WireModel):
    type: Literal["text"]
    text: str


class ImageURL(WireModel):
    url: str


class ImagePart(WireModel):
    type: Literal["image_url"]
    image_url: ImageURL


class ToolCallFunction(WireModel):
    name: str
    arguments: Any = None


class ToolCall(WireModel):
    id: str
    type: str
    function: ToolCallFunction


class Message(WireModel):
    role: str
    content: (
        str | tuple[Annotated[TextPart | ImagePart, Field(discriminator="type")], ...] | None
    ) = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str | None = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.content is None and not self.tool_calls:
            raise ValueError("`content` may be missing beside `tool_calls` only")
        return self


class Function(WireModel):
    name: str
    description: str | None = None
    parameters: JSON = Field(default_factory=lambda: {"type": "object", "properties": {}})


class Tool(WireModel):
    type: str
    function: Function


class NamedFunction(WireModel):
    name: str


class NamedToolChoice(WireModel):
    function: NamedFunction


class ChatRequest(BaseCompletionRequest):
    messages: tuple[Message, ...]
    max_completion_tokens: U32 | None = None
    logprobs: bool | None = None
    top_logprobs: U32 | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: str | NamedToolChoice | None = None
    tool_prompt: str | None = None
    response_format: GrammarBody | None = None
    logit_bias: tuple[F32, ...] | None = None

    @model_validator(mode="after")
    def _check_single_limit(self) -> Self:
        """Refuse both names of one field, as serde does."""
        if {"max_tokens", "max_completion_tokens"} <= self.model_fields_set:
            raise ValueError("duplicate field `max_tokens`")
        return self

    @property
    def max_new_tokens(self) -> int | None:
        return self.max_tokens if self.max_tokens is not None else self.max_completion_tokens


class TokenizeChatRequest(ChatRequest):
    """POST /chat_tokenize: the conversation counts, the rest is ignored."""


def drop_own_fields(data: Any) -> Any:
    """A body without the fields that TGI's router ignores or does not know, for strict mode."""
    if not isinstance(data, dict):
        return data
    ignored = FIELDS_UNKNOWN_TO_TGI if "prompt" in data else {"n"}
    return {name: value for name, value in data.items() if name not in ignored}


def normalize_body(data: Any) -> Any:
    """OpenAI's own forms in TGI's: one `stop` string, `top_p` 1.0, `logit_bias` by token, null
    for what has a default, both names of the limit, `response_format` with `json_schema`.
    """
    if not isinstance(data, dict):
        return data
    body = dict(data)
    if isinstance(body.get("stop"), str):
        body["stop"] = [body["stop"]]
    if isinstance(body.get("stop"), list):  # an empty string would end every text at once
        body["stop"] = [sequence for sequence in body["stop"] if sequence != ""]
    if body.get("top_p") in (1, 1.0) and not isinstance(body["top_p"], bool):
        body["top_p"] = None
    if isinstance(body.get("logit_bias"), dict):
        del body["logit_bias"]
    for name in ("stream", "stream_options"):
        if name in body and body[name] is None:
            del body[name]
    if body.get("max_completion_tokens") is not None:
        body.pop("max_tokens", None)
    elif "max_tokens" in body:
        body.pop("max_completion_tokens", None)
    if isinstance(body.get("response_format"), dict):
        body["response_format"] = _normalize_response_format(body["response_format"])
    return body


def _normalize_response_format(response_format: JSON) -> JSON | None:
    if response_format.get("type") == "text":
        return None
    if "value" in response_format:
        return response_format
    if response_format.get("type") == "json_object":
        # OpenAI knows no schema here; llama.cpp and hosted services take one, and obey it.
        schema = response_format.get("schema")
        return {**response_format, "value": dict(ANY_JSON_OBJECT) if schema is None else schema}
    if response_format.get("type") == "json_schema" and "json_schema" in response_format:
        return {**response_format, "value": response_format["json_schema"]}
    return response_format
