"""What can go wrong with a teacher, in the terms of what its caller can do about it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    HfHubHTTPError,
    InferenceTimeoutError,
    OverloadedError,
    TextGenerationError,
    ValidationError,
)

from qcrd.errors import QcrdError, Transient
from qcrd.records.teachers.prompt import PromptStyle
from qcrd.records.teachers.protocol import CONTENT_FILTERED, UPSTREAM_AWAY
from qcrd.runtime.http import retry_after
from services.api.assembling.teacher.prompt_refused import make_refusal


class TeacherOverloaded(Transient):
    """The teacher is at capacity (429): retry the request, with fewer at once."""


class TeacherUnreachable(Transient):
    """The teacher does not respond, or broke off in the middle of an output."""

    was_reached = True
    """Whether it may have generated something, which has to be paid for."""
    at_upstream = False
    """Whether the teacher itself is there, and only the server behind it away."""


class TeacherGenerationFailed(Transient):
    """The teacher took the request and its engine failed on it (424)."""


class KeyRefused(QcrdError):
    """The teacher answers 401 or 403: no request with this key helps."""

    default_code = "teacher_refused"


class StyleUnsupported(QcrdError):
    """The teacher takes prompts of the other style only: `style`."""

    default_code = "teacher_refused"

    def __init__(self, message: str, style: PromptStyle) -> None:
        super().__init__(message)
        self.style: PromptStyle = style


class NoTokenizer(QcrdError):
    """The teacher cannot tell how many tokens a text has."""


CHAT_ONLY_PATTERN = re.compile(
    r"is a chat model|not supported in the v1/completions|only.{0,20}chat[/ ]completions",
    re.IGNORECASE,
)
NO_CHAT_PATTERN = re.compile(
    r"not a chat model|no chat[_ ]template|does not support chat|provide a chat template"
    r"|template error",
    re.IGNORECASE,
)
"""OpenAI's two messages, and those of vLLM, TGI and Ollama about models without a template."""


def find_other_style(told: str) -> PromptStyle | None:
    """The style of prompts that the teacher takes, where `told` refuses the one it was asked in."""
    if NO_CHAT_PATTERN.search(told):
        return "completion"
    return "chat" if CHAT_ONLY_PATTERN.search(told) else None


@contextmanager
def translate_teacher_errors(name: str) -> Iterator[None]:
    """Raise the errors of `huggingface_hub` and of HTTP about teacher `name` as those above, or as
    `PromptRefused` or `QcrdError` where asking again cannot help."""
    label = f"teacher {name}"
    try:
        yield
    except OverloadedError as error:
        raise TeacherOverloaded(
            f"{label} is overloaded", retry_after=_get_retry_after(error)
        ) from error
    except ValidationError as error:
        raise _make_validation_error(label, str(error)) from error
    except (InferenceTimeoutError, httpx2.TimeoutException) as error:
        raise _make_unreachable_error(f"{label} does not respond in time", error) from error
    except HfHubHTTPError as error:
        raise _make_status_error(label, error) from error
    except TextGenerationError as error:
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError) and cause.response.status_code != 424:
            raise _make_status_error(label, cause, str(error)) from error
        raise make_generation_error(label, str(error)) from error
    except (httpx2.HTTPError, json.JSONDecodeError) as error:
        reason = str(error) or type(error).__name__
        raise _make_unreachable_error(f"{label} does not respond: {reason}", error) from error


NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Failures before the first byte of a request."""


def _make_unreachable_error(message: str, error: Exception) -> TeacherUnreachable:
    was_reached = not isinstance(error, NEVER_SENT) and not isinstance(error.__cause__, NEVER_SENT)
    unreachable = TeacherUnreachable(message if was_reached else add_address_advice(message))
    unreachable.was_reached = was_reached
    return unreachable


def add_address_advice(message: str) -> str:
    """For a teacher that takes no connection: a job waits for it until somebody looks."""
    return f"{message}; if it is up, check its `url` in the setting QCRD_TEACHERS"


def _make_validation_error(label: str, told: str) -> QcrdError:
    if (style := find_other_style(told)) is not None:
        return StyleUnsupported(f"{label} takes {style} prompts only: {told}", style)
    return make_refusal(label, told)


def make_generation_error(label: str, told: str) -> QcrdError:
    """Of an answer that had begun, by the message alone: that is what clients hand on of the error
    types that are not TGI's own."""
    if told.startswith(CONTENT_FILTERED):
        return make_refusal(label, told)
    if (style := find_other_style(told)) is not None:
        return StyleUnsupported(f"{label} takes {style} prompts only: {told}", style)
    if told.startswith(UPSTREAM_AWAY):
        away = TeacherUnreachable(f"{label}: its upstream does not answer ({told})")
        away.at_upstream = True
        return away
    return TeacherGenerationFailed(f"{label} failed to generate: {told}")


def _make_status_error(label: str, error: HfHubHTTPError, told: str = "") -> QcrdError:
    status = error.response.status_code
    if status == 429:
        return TeacherOverloaded(f"{label} is overloaded", retry_after=_get_retry_after(error))
    if status == 408 or status >= 500:
        unreachable = TeacherUnreachable(f"{label} responds {status}")
        # 503 is a refusal; another may come from a proxy that gave up on a running generation.
        unreachable.was_reached = status != 503
        return unreachable
    if status in (413, 422):
        return _make_validation_error(label, told or ("too long" if status == 413 else str(error)))
    kind = KeyRefused if status in (401, 403) else QcrdError
    return kind(
        f"{label} refuses requests with status {status}: check its address and API key in the "
        "setting QCRD_TEACHERS",
        code="teacher_refused",
    )


def _get_retry_after(error: BaseException) -> float | None:
    """The Retry-After of the response behind `error`, which the client keeps as the cause."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return (
        None
        if response is None
        else retry_after.parse_retry_after(response.headers.get("retry-after"))
    )
