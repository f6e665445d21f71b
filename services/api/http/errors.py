"""Error responses: one JSON envelope, FastAPI's and Starlette's own errors included."""

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

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse, "description": meaning}
    for status, meaning in {
        400: "A field, a query parameter or the body's shape is wrong: `param` names it and "
        "`message` the fix.",
        401: "No valid API key.",
        403: "The key lacks the required scope.",
        404: "There is no such thing.",
        405: "The path does not support this method.",
        408: "The body was received too slowly.",
        409: "Not in the state that it is in, or an `Idempotency-Key` used twice.",
        413: "The body is too large.",
        415: "The body is compressed, or of another type than the route reads.",
        429: "The key has used up its requests for this minute. `Retry-After` says when to retry.",
        500: "A defect of the server; its log has it under the response's `x-request-id`.",
        503: "Redis, the store or another server is unavailable. `Retry-After` says when to retry.",
    }.items()
}
"""Error responses of every route under `/v1`, for the OpenAPI document."""

DEFAULT_RETRY_AFTER_SECONDS = 2.0
"""Seconds in the Retry-After of a 503 whose cause gives none."""

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""`type` of the statuses that have one of their own in the OpenAI API."""
HTTP_ERROR_CODES = {404: "unknown_url", 405: "method_not_allowed", 413: "too_large"}


class PayloadTooLarge(Invalid):
    status = 413
    default_code = "too_large"


class RequestTimeout(Invalid):
    status = 408
    default_code = "too_slow"


class UnsupportedMediaType(Invalid):
    status = 415
    default_code = "unsupported_media_type"


class ClientDisconnected(Invalid):
    """A response for the log only, as the client has left; the status is nginx's."""

    status = 499
    default_code = "client_gone"


def build_error_response(error: QcrdError) -> JSONResponse:
    headers: dict[str, str] = {}
    retry_after = getattr(error, "retry_after", None)
    if isinstance(error, Transient) or retry_after is not None:
        headers["Retry-After"] = str(math.ceil(retry_after or DEFAULT_RETRY_AFTER_SECONDS))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _build_json_response(error.status, error.message, error.param, error.code, headers)


def install_error_handlers(app: FastAPI) -> None:
    """Register the error handlers. Exceptions that none of them takes become a 500 in
    `telemetry.install_http_telemetry`."""
    app.add_exception_handler(QcrdError, _handle_qcrd_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)


async def _handle_qcrd_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QcrdError)
    return build_error_response(error)


async def _handle_validation_error(request: Request, error: Exception) -> JSONResponse:
    """The error of a request that does not match the route's schema."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = str(first.get("ctx", {}).get("error", first["msg"]))
        return _build_json_response(400, f"the body is not JSON: {reason}", None, "broken_json")
    # The first part is the location (body, query, path), which is no part of the field's name.
    path = ".".join(str(part) for part in first["loc"][1:])
    if not path:
        return _build_json_response(400, f"the body: {first['msg']}", None, "invalid_value")
    return _build_json_response(400, f"`{path}`: {first['msg']}", path, "invalid_value")


async def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, message, headers = error.status_code, str(error.detail), dict(error.headers or {})
    if status in (404, 405):
        message = f"there is no {request.method} {request.url.path}"
    if status == 405:
        headers["Allow"] = _format_allowed_methods(request)
    return _build_json_response(
        status, message, None, HTTP_ERROR_CODES.get(status, "invalid_request"), headers
    )


def _format_allowed_methods(request: Request) -> str:
    """The methods that are documented for this path; Starlette lists those of its first route."""
    documented, request_path = request.app.openapi()["paths"], request.url.path
    matches = [documented[request_path]] if request_path in documented else []
    matches += [
        routes for path, routes in documented.items() if compile_path(path)[0].match(request_path)
    ]
    return ", ".join(sorted(method.upper() for method in matches[0])) if matches else ""


def _build_json_response(
    status: int,
    message: str,
    param: str | None,
    code: str,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    error_type = ERROR_TYPES.get(
        status, "server_error" if status >= 500 else "invalid_request_error"
    )
    body = schemas.build_error_body(message, type=error_type, param=param, code=code)
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))
