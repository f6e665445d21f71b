"""One line of what a batch brought: an answer like that of a single request, or why there is none.

As OpenAI's guide Batch has it: `{"custom_id", "response": {"status_code", "body"}, "error"}`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from services.api.assembling.teacher.openai.error_body import ServerError, parse_object
from services.api.assembling.teacher.openai.stream import StreamedAnswer


@dataclass(frozen=True)
class LineRefusal:
    """`status` None: the request was never executed, such as in a batch that expired."""

    status: int | None
    told: ServerError


def read_line(line: Mapping[str, Any], secrets: Collection[str]) -> StreamedAnswer | LineRefusal:
    response = line.get("response")
    if not isinstance(response, dict):
        return LineRefusal(None, parse_object(line.get("error"), secrets))
    status, body = response.get("status_code"), response.get("body")
    if status != 200 or not isinstance(body, dict) or "choices" not in body:
        is_error = isinstance(status, int) and status != 200
        return LineRefusal(status if is_error else None, parse_object(body, secrets))
    return read_answer(body)


def read_answer(body: Mapping[str, Any]) -> StreamedAnswer:
    """A whole answer, as if it had come in one chunk and its usage after it."""
    answer = StreamedAnswer()
    choices = [each for each in body.get("choices") or () if isinstance(each, dict)]
    answer.add(SimpleNamespace(choices=[_read_choice(each) for each in choices]))
    usage = body.get("usage")
    if isinstance(usage, dict):
        details = usage.get("prompt_tokens_details")
        cached = SimpleNamespace(**details) if isinstance(details, dict) else None
        counts = SimpleNamespace(**{**usage, "prompt_tokens_details": cached})
        answer.add(SimpleNamespace(choices=(), usage=counts))
    return answer


def _read_choice(choice: Mapping[str, Any]) -> SimpleNamespace:
    message = choice.get("message")
    return SimpleNamespace(
        index=choice.get("index"),
        finish_reason=choice.get("finish_reason"),
        text=choice.get("text"),
        delta=SimpleNamespace(**message) if isinstance(message, dict) else None,
    )
