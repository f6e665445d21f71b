"""One envelope for every answer that is an error, FastAPI's and Starlette's own included."""

from __future__ import annotations

import math
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from qcrd.errors import Invalid, QcrdError, Transient
from services.api import wire

RETRY_SECONDS = 2.0
"""What a 503 asks clients to wait when its cause does not say."""

CODES = {404: "unknown_url", 405: "method_not_allowed", 413: "too_large"}


class TooLarge(Invalid):
    status = 413
    default_code = "too_large"


def answer(error: QcrdError) -> JSONResponse:
    headers: dict[str, str] = {}
    if isinstance(error, Transient):
        headers["Retry-After"] = str(math.ceil(error.retry_after or RETRY_SECONDS))
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
    status = error.status_code
    message = str(error.detail)
    if status in (404, 405):
        message = f"there is no {request.method} {request.url.path}"
    return _envelope(status, message, None, CODES.get(status, "invalid_request"), error.headers)


def _envelope(
    status: int,
    message: str,
    param: str | None,
    code: str,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    body = wire.error(message, type=kind, param=param, code=code)
    return JSONResponse(body, status_code=status, headers=dict(headers or {}))
