"""Error responses: one JSON envelope, FastAPI's and Starlette's own errors included."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from qcrd.errors import QcrdError, Transient
from qcrd.runtime.http.error_body import build_error_body

DEFAULT_RETRY_AFTER_SECONDS = 2.0
"""Seconds in the Retry-After of a 503 whose cause gives none."""

ERROR_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
"""`type` of the statuses that have one of their own in the OpenAI API."""
HTTP_ERROR_CODES = {404: "unknown_url", 405: "method_not_allowed", 413: "too_large"}


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
    """The methods that are described for this path; Starlette tells those of its first route."""
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
    body = build_error_body(message, type=error_type, param=param, code=code)
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))
