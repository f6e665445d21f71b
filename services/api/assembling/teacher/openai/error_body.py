"""What an OpenAI-compatible server says in an error."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import openai

MAX_MESSAGE_CHARS = 400
UNSUPPORTED_CODES = frozenset({"unsupported_parameter", "unsupported_value", "extra_forbidden"})
HIDDEN = "…"


@dataclass(frozen=True)
class ServerError:
    """`param` and `code` are "" where they are not told."""

    message: str
    param: str = ""
    code: str = ""

    @property
    def is_unsupported(self) -> bool:
        return self.code in UNSUPPORTED_CODES


def parse_error(error: openai.APIError, secrets: Collection[str] = ()) -> ServerError:
    """From the forms that servers have; without `secrets`, which some servers repeat.

    OpenAI's object (out of a list at Gemini's), FastAPI's `detail` with its `loc`, the same within
    `message` (Mistral's), or a text.
    """
    return _parse(error.body, error.message, secrets)


def parse_object(body: Any, secrets: Collection[str] = ()) -> ServerError:
    """The same of a body that is read already."""
    return _parse(body, "it says nothing more", secrets)


def parse_body(content: bytes, secrets: Collection[str] = ()) -> ServerError:
    """The same of a body under status 200."""
    text = content.decode(errors="replace")
    try:
        return _parse(json.loads(text), text, secrets)
    except ValueError:
        return ServerError(hide_secrets(text, secrets))


def _parse(body: Any, otherwise: str, secrets: Collection[str]) -> ServerError:
    if isinstance(body, list) and body:
        body = body[0]
    if isinstance(body, dict):
        outer, body = body, body.get("error", body)
        if isinstance(body, str):  # xAI's: a sentence as code beside the message
            return ServerError(hide_secrets(body, secrets), code=str(outer.get("code") or ""))
    if not isinstance(body, dict):
        return ServerError(hide_secrets(str(body or otherwise), secrets))
    message, param = body.get("message"), body.get("param")
    details = message.get("detail") if isinstance(message, dict) else body.get("detail")
    if isinstance(details, list) and details and isinstance(details[0], dict):
        message, param = details[0].get("msg"), _last_name(details[0].get("loc"))
    code = body.get("code") or body.get("http_status_code") or body.get("type")
    text = hide_secrets(str(message or details or otherwise), secrets)
    return ServerError(text, str(param or ""), str(code or ""))


def hide_secrets(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text[:MAX_MESSAGE_CHARS]


def _last_name(place: Any) -> str | None:
    return str(place[-1]) if isinstance(place, list) and place else None
