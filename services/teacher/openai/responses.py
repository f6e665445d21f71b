"""Responses of the OpenAI-compatible routes. Strict mode keeps TGI's deviations from OpenAI."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import qcrd
from services.teacher import sse
from services.teacher.engines.base import Token
from services.teacher.errors import IncompleteGeneration, TeacherError
from services.teacher.inference.results import TokenCounts
from services.teacher.inference.stopping import FinishReason
from services.teacher.inference.wire import JSON

DONE_EVENT = b"data: [DONE]\n\n"
SYSTEM_FINGERPRINT = f"{qcrd.__version__}-native"


@dataclass(frozen=True)
class ResponseBuilder:
    """The head of one response, the same in each of its chunks."""

    object_type: str
    model: str
    strict: bool
    id: str
    created: int

    @classmethod
    def create(cls, object_type: str, prefix: str, model: str, *, strict: bool) -> ResponseBuilder:
        name = "" if strict else f"{prefix}-{uuid.uuid4().hex}"
        return cls(object_type, model, strict, name, int(time.time()))

    def build(self, choices: Sequence[JSON], **extra: object) -> JSON:
        head = {
            "object": self.object_type,
            "id": self.id,
            "created": self.created,
            "model": self.model,
        }
        return {**head, "system_fingerprint": SYSTEM_FINGERPRINT, "choices": list(choices), **extra}

    def to_finish_reason(self, finish_reason: FinishReason) -> str:
        """OpenAI has one finish reason for both ways to stop, TGI another for a stop string."""
        if finish_reason == "content_filter" or (finish_reason == "stop_sequence" and self.strict):
            return finish_reason
        return "length" if finish_reason == "length" else "stop"

    def build_error_event(self, error: TeacherError) -> bytes:
        """The error as a stream event; TGI writes 422 for every error."""
        status = 422 if self.strict else error.status
        message = (
            f"{error.message} stream" if isinstance(error, IncompleteGeneration) else error.message
        )
        return sse.format_event({"error": {"message": message, "http_status_code": status}})


def build_usage(token_counts: Iterable[TokenCounts]) -> JSON:
    """Tokens read and generated, summed; null where the prompt's tokens were never counted. What
    an upstream tells beside is in OpenAI's two objects of details."""
    counts = list(token_counts)
    prompt = _sum_known(each.prompt for each in counts)
    is_known = all(each.prompt is not None for each in counts)
    completion = sum(each.completion for each in counts)
    usage: JSON = {
        "prompt_tokens": (prompt or 0) if is_known else None,
        "completion_tokens": completion,
        "total_tokens": (prompt or 0) + completion if is_known else None,
    }
    if (cached := _sum_known(each.cached for each in counts)) is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    if (reasoning := _sum_known(each.reasoning for each in counts)) is not None:
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    if any(each.estimated for each in counts):
        usage["estimated"] = True  # a key of ours, as in TGI's `details`
    return usage


def _sum_known(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def build_logprobs(tokens: Sequence[Token]) -> JSON:
    """`logprobs` of a chat choice: each token, and the most likely ones in its place."""
    return {
        "content": [
            {
                "token": token.text,
                "logprob": token.logprob,
                "top_logprobs": [
                    {"token": other.text, "logprob": other.logprob} for other in token.top_tokens
                ],
            }
            for token in tokens
            if not token.is_reasoning
        ]
    }
