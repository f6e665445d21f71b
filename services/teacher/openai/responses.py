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
    """Tokens read and generated, summed; null where the prompt's tokens were never counted."""
    pairs = list(token_counts)
    prompt_counts = [prompt_tokens for prompt_tokens, _ in pairs if prompt_tokens is not None]
    total_prompt_tokens = sum(prompt_counts) if len(prompt_counts) == len(pairs) else None
    total_completion_tokens = sum(completion_tokens for _, completion_tokens in pairs)
    total = None if total_prompt_tokens is None else total_prompt_tokens + total_completion_tokens
    return {
        "prompt_tokens": total_prompt_tokens,
        "completion_tokens": total_completion_tokens,
        "total_tokens": total,
    }


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
