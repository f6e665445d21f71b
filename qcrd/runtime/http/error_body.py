"""Error bodies of HTTP responses: how ours are written, and how anyone's are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


def build_error_body(
    message: str, *, type: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    """As the OpenAI API has it; `param` is the dotted path of the field that is wrong."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


@dataclass(frozen=True)
class ErrorBody:
    """What a body says of an error; each None where it does not."""

    message: str | None = None
    param: str | None = None
    code: str | None = None


def parse_error_body(content: bytes) -> ErrorBody:
    """Of `{"error": {"message", "param", "code"}}` or TGI's `{"error", "error_type"}`; nothing of a
    proxy's page, nor of a stranger's: there, the address and the status say more."""
    try:
        body = json.loads(content)
    except ValueError:
        return ErrorBody()
    match body:
        case {"error": {"message": message}}:
            error = body["error"]
            return ErrorBody(str(message), _get_text(error, "param"), _get_text(error, "code"))
        case {"error": str(message)}:
            return ErrorBody(message, code=_get_text(body, "error_type"))
    return ErrorBody()


def _get_text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else str(value)
