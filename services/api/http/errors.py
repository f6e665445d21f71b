"""One envelope for every answer that is an error, FastAPI's and Starlette's own included."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from qcrd.errors import Invalid, QcrdError, Transient
from services.api.http import schemas

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Envelope, "description": meaning}
    for status, meaning in {
        400: "A field is wrong: `param` names it and `message` the fix.",
        401: "No valid API key.",
        403: "The key may not do this.",
        404: "There is no such thing.",
        405: "The path is not there under this method.",
        408: "The body came too slowly.",
        409: "Not in the state that it is in, or an `Idempotency-Key` used twice.",
        413: "The body is too large.",
        415: "The body is compressed, or of another type than the route reads.",
        422: "The request is not of the documented shape.",
        429: "The key has sent its requests of this minute. `Retry-After` says when to come back.",
        500: "A defect of the server; its log has it under the answer's `x-request-id`.",
        503: "Redis, the store or a server behind is away. `Retry-After` says when to come back.",
    }.items()
}
"""What any route under `/v1` may answer besides its own, for the OpenAPI document."""

RETRY_SECONDS = 2.0
"""What a 503 asks clients to wait when its cause does not say."""

KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""`type` of the statuses that have one of their own in the OpenAI API."""
CODES = {404: "unknown_url", 405: "method_not_allowed", 413: "too_large"}


class TooLarge(Invalid):
    status = 413
    default_code = "too_large"


class TooSlow(Invalid):
    status = 408
    default_code = "too_slow"


class UnsupportedType(Invalid):
    status = 415
    default_code = "unsupported_media_type"


class Misshapen(Invalid):
    """Not of the route's shape, as FastAPI says it of bodies that it reads itself."""

    status = 422


class ClientGone(Invalid):
    """Nobody is there to be answered; the status is what nginx writes in its log then."""

    status = 499
    default_code = "client_gone"


def answer(error: QcrdError) -> JSONResponse:
    headers: dict[str, str] = {}
    wait = getattr(error, "retry_after", None)
    if isinstance(error, Transient) or wait is not None:
        headers["Retry-After"] = str(math.ceil(wait or RETRY_SECONDS))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _envelope(error.status, error.message, error.param, error.code, headers)


def install_errors(app: FastAPI) -> None:
    """What no handler here takes is answered, with status 500, by `telemetry.install_http`."""
    app.add_exception_handler(QcrdError, _ours)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(HTTPException, _refused)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QcrdError)
    return answer(error)


async def _unreadable(request: Request, error: Exception) -> JSONResponse:
    """A request that is not of the route's shape: 400 for broken JSON, else 422."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        return _envelope(400, f"the body is not JSON: {reason}", None, "broken_json")
    # The first part says where it was looked for (body, query, path), which no client names.
    path = ".".join(str(part) for part in first["loc"][1:])
    if not path:
        return _envelope(422, f"the body: {first['msg']}", None, "invalid_value")
    return _envelope(422, f"`{path}`: {first['msg']}", path, "invalid_value")


async def _refused(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
    if status in (404, 405):
        message = f"there is no {request.method} {request.url.path}"
    if status == 405:
        headers["Allow"] = _allowed(request)
    return _envelope(status, message, None, CODES.get(status, "invalid_request"), headers)


def _allowed(request: Request) -> str:
    """The methods that are described for this path; Starlette tells those of its first route."""
    described, asked = request.app.openapi()["paths"], request.url.path
    there = [described[asked]] if asked in described else []
    there += [routes for path, routes in described.items() if compile_path(path)[0].match(asked)]
    return ", ".join(sorted(method.upper() for method in there[0])) if there else ""


def _envelope(
    status: int,
    message: str,
    param: str | None,
    code: str,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = schemas.error(message, type=kind, param=param, code=code)
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))
