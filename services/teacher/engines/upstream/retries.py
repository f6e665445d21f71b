"""What an upstream's refusal means, and how long to wait before asking again."""

from __future__ import annotations

import json
import random

import httpx

from qcrd.runtime.http import retry_after
from services.teacher.errors import GenerationFailed, InputValidationError, Overloaded, TeacherError

# Statuses after which the same request may be answered a moment later.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
BACKOFF_SECONDS, BACKOFF_MOST = 0.5, 30.0


class Again(Exception):
    """The call failed before its first token; `wait` is the seconds the upstream asks for."""

    def __init__(self, error: TeacherError, wait: float | None = None) -> None:
        super().__init__(error.message)
        self.error, self.wait = error, wait


async def refusal(reply: httpx.Response) -> Again | TeacherError:
    """What an error status means here: the client's fault, or a moment's, or the upstream's."""
    reason = _reason(reply.status_code, await reply.aread())
    if reply.status_code in (400, 413, 422):
        return InputValidationError(reason)
    if reply.status_code not in AGAIN:
        return GenerationFailed(reason)
    asked = retry_after.parse_retry_after(reply.headers.get("retry-after"))
    wait = None if asked is None else min(asked, BACKOFF_MOST)
    if reply.status_code != 429:
        return Again(GenerationFailed(reason), wait)
    overloaded = Overloaded("Model is overloaded")
    if wait is not None:
        overloaded.retry_after = max(1, round(wait))
    return Again(overloaded, wait)


def backoff(attempt: int) -> float:
    """Seconds before the next attempt: doubling, half of it by chance."""
    most = min(BACKOFF_SECONDS * 2.0**attempt, BACKOFF_MOST)
    return float(most * random.uniform(0.5, 1.0))


def _reason(status: int, body: bytes) -> str:
    try:
        told = json.loads(body).get("error", "")
        said = told if isinstance(told, str) else str(told.get("message"))
    except (ValueError, AttributeError):
        said = body[:200].decode(errors="replace")
    return f"upstream answered {status}: {said}"
