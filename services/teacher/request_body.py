"""Request bodies: content type, size, JSON, type, each with axum's status and TGI-style JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError

from services.teacher.errors import Denied, Unreadable
from services.teacher.inference.wire import Body

B = TypeVar("B", bound=Body)


Loosen = Callable[[Any], Any]


def reads(
    model: type[B], limit: int, loosen: Loosen | None = None
) -> Callable[[Request], Awaitable[B]]:
    """A reader of bodies of type `model`, at most `limit` bytes long. Raises `Unreadable`."""

    async def read(request: Request) -> B:
        return parse(model, await body(request, limit), loosen)

    return read


async def body(request: Request, limit: int) -> bytes:
    """The bytes of a JSON body. Raises `Unreadable`: 415 for another type, 413 when too long."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (
        kind.startswith("application/") and kind.endswith("+json")
    ):
        raise Unreadable("Expected request with `Content-Type: application/json`", 415)
    return await _within(request, limit)


async def _within(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > limit:
            raise Unreadable("Failed to buffer the request body: length limit exceeded", 413)
    return bytes(data)


def parse(model: type[B], data: bytes, loosen: Loosen | None = None) -> B:
    """Raises `Unreadable`: 400 for bad JSON, 422 for JSON of another shape."""
    try:
        return model.model_validate_json(data if loosen is None else _rewritten(data, loosen))
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            text = f"Failed to parse the request body as JSON: {first['msg']}"
            raise Unreadable(text, 400) from error
        where = ".".join(str(part) for part in first["loc"])
        text = "Failed to deserialize the JSON body into the target type: "
        raise Unreadable(f"{text}{where}: {first['msg']}", 422) from error


def _rewritten(data: bytes, loosen: Loosen) -> bytes:
    """Bad JSON stays as it is: the model's own reader says what is wrong with it."""
    try:
        return json.dumps(loosen(json.loads(data))).encode()
    except (ValueError, RecursionError):
        return data


def requires(key: str | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that wants `Authorization: Bearer <key>`, in any case, as TGI compares it."""
    wanted = None if key is None else f"bearer {key}".lower().encode()

    async def check(request: Request) -> None:
        given = request.headers.get("authorization", "").lower().encode()
        if wanted is not None and not compare_digest(given, wanted):
            raise Denied("Unauthorized")

    return check
