"""What the completion routes take: of OpenAI's bodies what a student can do, checked here.

Fields that are not named are ignored, as the API that clients know grows faster than this one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

Penalty = Annotated[float, Field(ge=-2, le=2)]


class RequestBody(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class StreamOptions(RequestBody):
    include_usage: bool | None = None


class CommonCompletionRequest(RequestBody):
    """What both routes share. Without `temperature` and `top_p` a student answers greedily, as it
    was measured; `max_tokens` cuts an answer short and never makes it longer than it learned."""

    model: str
    """The id of a published student."""
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class TextPart(RequestBody):
    type: Literal["text"]
    text: str


class ChatMessage(RequestBody):
    role: str
    content: str | list[TextPart] = ""

    @field_validator("content", mode="before")
    @classmethod
    def _replace_null_content(cls, value: object) -> object:
        """An assistant's turn that only called functions has null."""
        return "" if value is None else value


class ChatCompletionRequest(CommonCompletionRequest):
    """The last message of the user is the question; students hold no conversation, so the others
    are ignored. `explain` also asks for the rationale, as `reasoning_content` of the message."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, JsonValue] | None = None
    tools: list[JsonValue] | None = None
    explain: bool | None = None


class CompletionRequest(CommonCompletionRequest):
    """The prompt goes to the student as it is, without the words that it was trained to be asked
    in."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
