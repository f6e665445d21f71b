"""What the OpenAI-compatible routes answer with. Strict mode keeps TGI's own reading of OpenAI."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import qcrd
from services.teacher import sse
from services.teacher.engines.base import Token
from services.teacher.errors import IncompleteGeneration, TeacherError
from services.teacher.inference.stopping import FinishReason
from services.teacher.inference.wire import JSON

DONE = b"data: [DONE]\n\n"
FINGERPRINT = f"{qcrd.__version__}-native"


@dataclass(frozen=True)
class Shape:
    """The head of one response, the same in each of its chunks."""

    kind: str
    model: str
    strict: bool
    id: str
    created: int

    @classmethod
    def new(cls, kind: str, prefix: str, model: str, *, strict: bool) -> Shape:
        name = "" if strict else f"{prefix}-{uuid.uuid4().hex}"
        return cls(kind, model, strict, name, int(time.time()))

    def body(self, choices: Sequence[JSON], **more: object) -> JSON:
        head = {"object": self.kind, "id": self.id, "created": self.created, "model": self.model}
        return {**head, "system_fingerprint": FINGERPRINT, "choices": list(choices), **more}

    def reason(self, reason: FinishReason) -> str:
        """OpenAI has one word for both ways to stop; TGI tells a stop string apart."""
        if reason == "stop_sequence" and self.strict:
            return reason
        return "length" if reason == "length" else "stop"

    def error(self, error: TeacherError) -> bytes:
        """TGI writes 422 whatever the error was."""
        status = 422 if self.strict else error.status
        message = (
            f"{error.message} stream" if isinstance(error, IncompleteGeneration) else error.message
        )
        return sse.format_event({"error": {"message": message, "http_status_code": status}})


def usage(counts: Iterable[tuple[int | None, int]]) -> JSON:
    """Tokens read and generated, summed; null where the prompt's tokens were never counted."""
    pairs = list(counts)
    read = [known for known, _ in pairs if known is not None]
    prompt = sum(read) if len(read) == len(pairs) else None
    generated = sum(new for _, new in pairs)
    total = None if prompt is None else prompt + generated
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": total}


def logprobs(tokens: Sequence[Token]) -> JSON:
    """Chat's `logprobs`: each token, and the likeliest ones in its place."""
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
        ]
    }
