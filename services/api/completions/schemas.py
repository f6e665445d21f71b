"""Request bodies of the completion routes: the fields of OpenAI's that a student supports.

Other fields are ignored, as OpenAI's API keeps growing.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

MAX_MESSAGES = 2048
"""OpenAI refuses longer conversations too."""
MAX_PROMPTS = 2048
Outputs = Annotated[int, Field(ge=2, le=32)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class RequestBody(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")


class StreamOptions(RequestBody):
    include_usage: bool | None = None


class CommonCompletionRequest(RequestBody):
    """Fields of both routes. Without `temperature` and `top_p` a student decodes greedily, as in
    its evaluation; `max_tokens` shortens an output and never makes it longer than in training."""

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
    def _check_content(cls, value: object) -> object:
        """Null in an assistant's turn that only called functions; parts that are no text are
        refused in words."""
        for part in value if isinstance(value, list) else ():
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in ("image_url", "input_image"):
                raise ValueError("holds an image: send text only")
            if isinstance(kind, str) and kind != "text":
                raise ValueError(f"holds a part {kind[:40]!r}: send text only")
        return "" if value is None else value


class ChatCompletionRequest(CommonCompletionRequest):
    """The last message of the user is the question; students keep no conversation, so the others
    are ignored. `explain` also asks for the rationale, as `reasoning_content` of the message.

    A choice has `confidence`, the chance that its answer is right, where that was calibrated: of a
    greedy answer, and of a vote like those that were measured. `vote`: the answer is the one that
    most of so many outputs have. `best_of`: it is that of the output with the best `score` of the
    student's judge, where the student has one that helps (400 `judge_not_useful`). `escalate` says
    that the confidence is below the threshold of the student's `evaluation.fallback`; with
    `fallback` the teacher then answers in its place, which costs its tokens (`fallback_usage`), and
    `answered_by` says who did.
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: dict[str, JsonValue] | None = None
    tools: list[JsonValue] | None = None
    explain: bool | None = None
    vote: Outputs | None = None
    best_of: Outputs | None = None
    fallback: bool | None = None

    @property
    def question(self) -> str:
        """The last message of the user."""
        said = [message.content for message in self.messages if message.role == "user"]
        last = said[-1] if said else ""
        return last if isinstance(last, str) else "".join(part.text for part in last)


class CompletionRequest(CommonCompletionRequest):
    """The prompt goes to the student as it is, without the prefix and suffix of its training."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0)] | None = None
    suffix: str | None = None
    """What the student's server does not do of these, it refuses by name."""
