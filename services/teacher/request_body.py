"""Request bodies: content type, size, JSON, type, each with axum's status and TGI-style JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from services.teacher.errors import InvalidApiKey, InvalidBody
from services.teacher.inference.wire import WireModel

B = TypeVar("B", bound=WireModel)


BodyNormalizer = Callable[[Any], Any]


def make_body_reader(
    model: type[B], limit: int, normalize: BodyNormalizer | None = None
) -> Callable[[Request], Awaitable[B]]:
    """A reader of bodies of type `model`, at most `limit` bytes long. Raises `InvalidBody`."""

    async def read(request: Request) -> B:
        return parse_body(model, await read_json_body(request, limit), normalize)

    return read


async def read_json_body(request: Request, limit: int) -> bytes:
    """The bytes of a JSON body. Raises `InvalidBody`: 415 for another type, 413 when too long."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise InvalidBody("Expected request with `Content-Type: application/json`", 415)
    return await _read_limited(request, limit)


async def _read_limited(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise InvalidBody("Failed to buffer the request body: length limit exceeded", 413)
    return bytes(data)


def parse_body(model: type[B], data: bytes, normalize: BodyNormalizer | None = None) -> B:
    """Raises `InvalidBody`: 400 for bad JSON, 422 for JSON of another shape."""
    try:
        return model.model_validate_json(
            data if normalize is None else _normalize_json(data, normalize)
        )
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            message = f"Failed to parse the request body as JSON: {first['msg']}"
            raise InvalidBody(message, 400) from error
        location = ".".join(str(part) for part in first["loc"])
        message = "Failed to deserialize the JSON body into the target type: "
        raise InvalidBody(f"{message}{location}: {first['msg']}", 422) from error


def _normalize_json(data: bytes, normalize: BodyNormalizer) -> bytes:
    """Bad JSON stays as it is: the model's own validation names the error."""
    try:
        return json.dumps(normalize(json.loads(data))).encode()
    except (ValueError, RecursionError):
        return data


def require_api_key(key: str | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that requires `Authorization: Bearer <key>`, in any case, as TGI compares it."""
    expected = None if key is None else f"bearer {key}".lower().encode()

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").lower().encode()
        if expected is not None and not compare_digest(given, expected):
            raise InvalidApiKey("Unauthorized")

    return check
