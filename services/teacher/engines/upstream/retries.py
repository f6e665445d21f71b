"""What an upstream's refusal means, and how long to wait before asking again."""

from __future__ import annotations

import json
import random

import httpx2

from qcrd.runtime.http import retry_after
from services.teacher.engines.upstream.wire import JSON, parse_openai_error
from services.teacher.errors import (
    GenerationFailed,
    InputValidationError,
    Overloaded,
    PromptTooLong,
    TeacherError,
    UpstreamUnreachable,
)

# Statuses after which the same request may be answered a moment later.
RETRYABLE_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# Of a server that starts, and of what stands before one that is away.
AWAY_STATUSES = frozenset({502, 503, 504})
INITIAL_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 0.5, 30.0


class RetryableError(Exception):
    """The call failed before its first token; `wait_seconds` are those the upstream asks for."""

    def __init__(self, error: TeacherError, wait_seconds: float | None = None) -> None:
        super().__init__(error.message)
        self.error, self.wait_seconds = error, wait_seconds


async def parse_error_response(response: httpx2.Response) -> RetryableError | TeacherError:
    """What an error status means here: the client's fault, or a moment's, or the upstream's."""
    status, error = response.status_code, _read_error(await response.aread())
    reason = f"upstream answered {status}: {error.get('message')}"
    if status in (400, 413, 422):
        # Of what its codes do not say, 413 alone has a meaning of its own.
        told = parse_openai_error(error)
        if status == 413:
            return told or PromptTooLong(f"too long: {reason}")
        return told or InputValidationError(reason)
    if status not in RETRYABLE_STATUSES:
        return GenerationFailed(reason)
    retry_after_seconds = retry_after.parse_retry_after(response.headers.get("retry-after"))
    wait_seconds = (
        None if retry_after_seconds is None else min(retry_after_seconds, MAX_BACKOFF_SECONDS)
    )
    if status in AWAY_STATUSES:
        return RetryableError(UpstreamUnreachable(reason), wait_seconds)
    if status != 429:
        return RetryableError(GenerationFailed(reason), wait_seconds)
    overloaded = Overloaded("Model is overloaded")
    if wait_seconds is not None:
        overloaded.retry_after = max(1, round(wait_seconds))
    return RetryableError(overloaded, wait_seconds)


def check_is_stream(response: httpx2.Response) -> None:
    """Raises `GenerationFailed` for an answer that is no event stream, such as a login page."""
    content_type = response.headers.get("content-type", "")
    if not content_type.startswith("text/event-stream"):
        raise GenerationFailed(f"upstream answered {content_type or 'nothing'}, not a stream")


def parse_broken_connection(
    error: httpx2.HTTPError, *, received_token: bool
) -> RetryableError | TeacherError:
    """What is left to do after no connection, or one that broke."""
    unreachable = UpstreamUnreachable(f"upstream: {type(error).__name__} {error}".rstrip())
    # An upstream that hangs would hang again, for as long.
    if received_token or isinstance(error, httpx2.ReadTimeout):
        return unreachable
    return RetryableError(unreachable)


def get_backoff_seconds(attempt: int) -> float:
    """Seconds before the next attempt: doubling, half of it by chance."""
    max_seconds = min(INITIAL_BACKOFF_SECONDS * 2.0**attempt, MAX_BACKOFF_SECONDS)
    return float(max_seconds * random.uniform(0.5, 1.0))


def _read_error(body: bytes) -> JSON:
    """OpenAI's `error` object, in whatever form an upstream has it; always with a `message`."""
    try:
        told = json.loads(body)
        # Older releases of vLLM leave the object around it out.
        error = told.get("error", told)
    except (ValueError, AttributeError):
        error = body[:200].decode(errors="replace")
    return error if isinstance(error, dict) else {"message": error}
