"""Errors of the gateway's routes: those that only HTTP has, and what the document says of all."""

from __future__ import annotations

from typing import Any

from qcrd.errors import Invalid

ERROR_SCHEMA = {"$ref": "#/components/schemas/ErrorResponse"}
"""By its name, which `openapi` defines: FastAPI builds a `model` anew for each route and status, a
third of the time that an app takes to answer its first request."""
ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"description": meaning, "content": {"application/json": {"schema": ERROR_SCHEMA}}}
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
