"""The errors of OpenAI's client, in the terms of what the sampler can do about them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import httpx2
import openai

from qcrd.errors import NoQuota, QcrdError
from qcrd.runtime.http.retry_after import MAX_SECONDS, parse_retry_after
from services.api.assembling.teacher.openai.error_body import ServerError, hide_secrets, parse_error
from services.api.assembling.teacher.prompt_refused import (
    TOO_LONG_PATTERN,
    PromptRefused,
    make_refusal,
)
from services.api.assembling.teacher.teacher_errors import (
    NEVER_SENT,
    KeyRefused,
    StyleUnsupported,
    TeacherOverloaded,
    TeacherUnreachable,
    add_address_advice,
    find_other_style,
    make_generation_error,
)

FILTER_PATTERN = re.compile(r"content[_ ](?:filter|management)|safety|moderation", re.IGNORECASE)
OVERLOADED_CODES = frozenset({"429", "503", "529", "rate_limit_exceeded", "overloaded_error"})
UNAVAILABLE = "currently unavailable"
"""Of xAI's code under status 200 for a server that has no room."""
KEY_PATTERN = re.compile(
    r"(?:incorrect|invalid).{0,12}api.?key|api.?key.{0,12}(?:not valid|invalid)", re.IGNORECASE
)
"""xAI and Gemini answer a wrong key with 400."""


@contextmanager
def translate_openai_errors(label: str, secrets: Collection[str] = ()) -> Iterator[None]:
    """Raise OpenAI's errors about teacher `label` as those of `teacher_errors`, as `PromptRefused`,
    or as `QcrdError` where asking again cannot help."""
    try:
        yield
    except openai.APIStatusError as error:
        told, headers = parse_error(error, secrets), error.response.headers
        raise make_status_error(label, error.status_code, told, headers) from error
    except openai.APIConnectionError as error:
        raise _make_connection_error(label, error, secrets) from error
    except openai.APIError as error:  # an event of the stream
        raise make_stream_error(label, parse_error(error, secrets)) from error
    except (httpx2.HTTPError, ValueError) as error:
        reason = hide_secrets(str(error) or type(error).__name__, secrets)
        raise TeacherUnreachable(
            f"{label} broke off in the middle of an answer: {reason}"
        ) from error


def make_status_error(
    label: str, status: int, told: ServerError, headers: Mapping[str, str]
) -> QcrdError:
    if status == 402 or _has_no_credit(told):
        return _make_quota_error(label, told)
    if status == 424:  # our own teacher server's
        return make_generation_error(label, told.message)
    if status == 429:
        wait = _get_retry_after(headers)
        reason = f" ({told.code})" if told.code else ""
        return TeacherOverloaded(f"{label} is overloaded{reason}", retry_after=wait)
    if status in (408, 409) or status >= 500:
        unreachable = TeacherUnreachable(f"{label} responds {status}: {told.message}")
        # 503 is a refusal; another may come from a proxy that gave up on a running generation.
        unreachable.was_reached = status not in (503, 529)
        return unreachable
    if status in (400, 404, 422) and (style := find_other_style(told.message)) is not None:
        return StyleUnsupported(f"{label} takes {style} prompts only: {told.message}", style)
    if status == 403 and FILTER_PATTERN.search(told.message):  # OpenRouter's, of one prompt
        return _make_refusal(label, told)
    if status in (401, 403) or (status == 400 and KEY_PATTERN.search(told.message)):
        # Some servers repeat the key in their words.
        return KeyRefused(
            f"{label} refuses the key (status {status}): check `api_key`, `api_key_file` or "
            "`api_key_env` in the setting QCRD_TEACHERS",
            code="teacher_refused",
        )
    if status in (400, 413, 422):
        return _make_refusal(label, told)
    return QcrdError(
        f"{label} responds {status}: {told.message}; check `url` and `model` in the setting "
        "QCRD_TEACHERS",
        code="teacher_refused",
    )


def make_stream_error(label: str, told: ServerError) -> QcrdError:
    """Of an answer that had begun: its status can say nothing more."""
    if _has_no_credit(told):
        return _make_quota_error(label, told)
    is_too_long = told.code == "context_length_exceeded" or TOO_LONG_PATTERN.search(told.message)
    if is_too_long or told.code in ("400", "413", "422"):
        return _make_refusal(label, told)
    if told.code in OVERLOADED_CODES or UNAVAILABLE in told.code or _is_overload(told):
        return TeacherOverloaded(f"{label} is overloaded")
    if told.code == "content_filter":
        return _make_refusal(label, told)
    if told.code in ("502", "504"):
        return TeacherUnreachable(f"{label} lost its own server: {told.message}")
    return make_generation_error(label, told.message)


def _is_overload(told: ServerError) -> bool:
    """Of a gateway that hands on what the server behind it says: it has generated nothing."""
    return told.code in ("502", "500") and "overloaded" in told.message.lower()


def _has_no_credit(told: ServerError) -> bool:
    return told.code in ("402", "insufficient_quota")


def _make_quota_error(label: str, told: ServerError) -> NoQuota:
    return NoQuota(
        f"{label} says that its account has no credit left: {told.message}; what was answered "
        "is kept: resume the job once there is"
    )


def _make_refusal(label: str, told: ServerError) -> PromptRefused:
    if told.code == "content_filter" or FILTER_PATTERN.search(told.message):
        return PromptRefused(f"{label} refuses a prompt: {told.message}", "filtered")
    if told.code == "context_length_exceeded":
        return PromptRefused(f"{label} refuses a prompt: {told.message}", "too_long")
    return make_refusal(label, told.message)


def _get_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; OpenAI's own header counts milliseconds."""
    milliseconds = headers.get("retry-after-ms", "")
    if milliseconds.isdecimal():
        return min(float(milliseconds) / 1000, MAX_SECONDS)
    return parse_retry_after(headers.get("retry-after"))


def _make_connection_error(
    label: str, error: openai.APIConnectionError, secrets: Collection[str]
) -> TeacherUnreachable:
    reason = str(error.__cause__ or error) or type(error.__cause__).__name__
    if isinstance(error.__cause__, httpx2.LocalProtocolError):
        reason = "the key or a header has characters that none may have"
    reason = hide_secrets(reason, secrets)
    was_reached = not isinstance(error.__cause__, NEVER_SENT)
    message = f"{label} does not respond: {reason}"
    unreachable = TeacherUnreachable(message if was_reached else add_address_advice(message))
    unreachable.was_reached = was_reached
    return unreachable
