"""The gateway's client of the server of published students."""

from __future__ import annotations

import re

import httpx2
from fastapi import Request
from starlette.responses import Response

from qcrd.errors import Invalid, NotFound, QcrdError, Transient
from qcrd.runtime.http import retry_after
from qcrd.runtime.http.asgi import run_until_disconnect
from qcrd.runtime.http.error_body import parse_error_body
from qcrd.runtime.telemetry import current_request_id
from services.api.completions.schemas import CommonCompletionRequest
from services.api.completions.stream import ProxiedEventStream, close_on_exit
from services.api.settings import StudentSettings

CONNECT_TIMEOUT_SECONDS = 5.0
KEEPALIVE_EXPIRY_SECONDS = 3.0
"""Seconds that an unused connection is kept: less than the five after which the server drops it, so
that none is reused as it closes."""
CLIENT_CLOSED_RESPONSE = Response(status_code=499)
"""The response to a client that has left, for the access log."""


class StudentServerOverloaded(Transient):
    status = 429
    default_code = "overloaded"


FIELD = re.compile(r"`(\w+)`")


class StudentRequestRejected(Invalid):
    """The student server's own refusal, with its status: 400 in place of TGI's 422, as everywhere
    in this API."""

    def __init__(self, message: str, status: int, code: str, param: str | None = None) -> None:
        super().__init__(message, code=code, param=param)
        self.status = 400 if status == 422 else status


class StudentClient:
    """One shared client for all requests, used by one event loop."""

    def __init__(self, settings: StudentSettings) -> None:
        self._client = httpx2.AsyncClient(
            base_url=settings.url,
            timeout=httpx2.Timeout(settings.timeout, connect=CONNECT_TIMEOUT_SECONDS),
            limits=httpx2.Limits(
                max_connections=None,
                max_keepalive_connections=20,
                keepalive_expiry=KEEPALIVE_EXPIRY_SECONDS,
            ),
            headers={"accept-encoding": "identity"},
            # The machine's proxy settings are for outside addresses.
            trust_env=False,
        )

    async def post(self, path: str, body: bytes) -> httpx2.Response:
        """The head of a successful response; the caller reads the rest and closes it.

        Raises `NotFound`, `StudentRequestRejected`, `StudentServerOverloaded`, and `Transient`
        while the server is unreachable.
        """
        headers = {"content-type": "application/json", "x-request-id": current_request_id() or ""}
        request = self._client.build_request("POST", path, content=body, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
            if response.status_code == 200:
                return response
            async with close_on_exit(response):
                await response.aread()
        except httpx2.TransportError as error:
            raise make_unavailable_error(error) from error
        raise make_response_error(response)

    async def close(self) -> None:
        await self._client.aclose()


def make_unavailable_error(error: httpx2.TransportError) -> Transient:
    timed_out = isinstance(error, httpx2.TimeoutException)
    reason = "does not respond in time" if timed_out else "cannot be reached"
    return Transient(
        f"the server of students {reason}: try again; QCRD_STUDENTS_URL of the gateway says where "
        "it is",
        code="students_unavailable",
    )


def make_response_error(response: httpx2.Response) -> QcrdError:
    """TGI's `{"error", "error_type"}` as an error of our tree."""
    error = parse_error_body(response.content)
    message = error.message or "the server of students failed without saying why"
    code = error.code or "student_failed"
    seconds = retry_after.parse_retry_after(response.headers.get("retry-after"))
    if response.status_code == 429:
        return StudentServerOverloaded(message, retry_after=seconds)
    if response.status_code >= 500:
        return Transient(message, code="students_unavailable", retry_after=seconds)
    if code == "model_not_found":
        return NotFound(message, param="model", code=code)
    return StudentRequestRejected(
        message,
        response.status_code,
        "invalid_value" if code == "validation" else code,
        _find_field(message, response.request.url.path),
    )


def _find_field(message: str, path: str) -> str | None:
    """The first field that a refusal names, as the client has called it."""
    if (found := FIELD.search(message)) is None:
        return None
    asked = "messages" if path.endswith("chat/completions") else "prompt"
    return {"inputs": asked, "max_new_tokens": "max_tokens"}.get(found[1], found[1])


async def forward_request(
    students: StudentClient, request: Request, path: str, body: CommonCompletionRequest
) -> Response:
    """The student's response, piece by piece if it streams. Raises what the request raises; it is
    cancelled when its client leaves."""
    data = body.model_dump_json(exclude_none=True).encode()
    response = await run_until_disconnect(request.receive, _fetch_response(students, path, data))
    return CLIENT_CLOSED_RESPONSE if response is None else response


async def _fetch_response(students: StudentClient, path: str, data: bytes) -> Response:
    response = await students.post(path, data)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        return ProxiedEventStream(response)
    try:
        async with close_on_exit(response):
            content = await response.aread()
    except httpx2.TransportError as error:
        raise make_unavailable_error(error) from error
    return Response(content, media_type="application/json")
