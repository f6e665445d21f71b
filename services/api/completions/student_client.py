"""The gateway's client of the server that answers for published students."""

from __future__ import annotations

import json

import httpx2
from fastapi import Request
from starlette.responses import Response

from qcrd.errors import Invalid, NotFound, QcrdError, Transient
from qcrd.runtime.http import retry_after
from qcrd.runtime.http.asgi import run_until_disconnect
from qcrd.runtime.telemetry import current_request_id
from services.api.completions.schemas import Sampled
from services.api.completions.stream import Relay, closed
from services.api.settings import StudentSettings

CONNECT_SECONDS = 5.0
KEPT_SECONDS = 3.0
"""Below the five seconds after which the other end drops an unused connection, so that none is
taken up again just when that happens."""
GONE = Response(status_code=499)
"""Nobody reads it; the log does."""


class Overloaded(Transient):
    status = 429
    default_code = "overloaded"


class Refused(Invalid):
    """The student server's own refusal, with its status."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message, code=code)
        self.status = status


class StudentServer:
    """One shared client for all requests, used by one event loop."""

    def __init__(self, settings: StudentSettings) -> None:
        self._client = httpx2.AsyncClient(
            base_url=settings.url,
            timeout=httpx2.Timeout(settings.timeout, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(
                max_connections=None, max_keepalive_connections=20, keepalive_expiry=KEPT_SECONDS
            ),
            headers={"accept-encoding": "identity"},
            # A proxy for the outside world does not lead to it.
            trust_env=False,
        )

    async def ask(self, path: str, body: bytes) -> httpx2.Response:
        """The head of a good answer; whoever gets it reads the rest and closes it.

        Raises `NotFound`, `Refused`, `Overloaded`, and `Transient` while the server is away.
        """
        headers = {"content-type": "application/json", "x-request-id": current_request_id() or ""}
        request = self._client.build_request("POST", path, content=body, headers=headers)
        try:
            answer = await self._client.send(request, stream=True)
            if answer.status_code == 200:
                return answer
            async with closed(answer):
                await answer.aread()
        except httpx2.TransportError as error:
            raise away(error) from error
        raise refusal(answer)

    async def close(self) -> None:
        await self._client.aclose()


def away(error: httpx2.TransportError) -> Transient:
    slow = isinstance(error, httpx2.TimeoutException)
    reason = "does not answer in time" if slow else "cannot be reached"
    return Transient(f"the server of students {reason}: try again", code="students_unavailable")


def refusal(answer: httpx2.Response) -> QcrdError:
    """TGI's `{"error", "error_type"}` as an error of our tree."""
    message, kind = _told(answer.content)
    seconds = retry_after.parse_retry_after(answer.headers.get("retry-after"))
    if answer.status_code == 429:
        return Overloaded(message, retry_after=seconds)
    if answer.status_code >= 500:
        return Transient(message, code="students_unavailable", retry_after=seconds)
    if kind == "model_not_found":
        return NotFound(message, param="model", code=kind)
    return Refused(message, answer.status_code, "invalid_value" if kind == "validation" else kind)


def _told(content: bytes) -> tuple[str, str]:
    try:
        told = json.loads(content)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {}
    message = told.get("error", "the server of students failed without saying why")
    return str(message), str(told.get("error_type", "student_failed"))


async def forward(students: StudentServer, request: Request, path: str, body: Sampled) -> Response:
    """The student's answer, piece by piece if it streams. Raises what `ask` raises; a client that
    leaves takes its request to the student with it."""
    data = body.model_dump_json(exclude_none=True).encode()
    answered = await run_until_disconnect(request.receive, _whole(students, path, data))
    return GONE if answered is None else answered


async def _whole(students: StudentServer, path: str, data: bytes) -> Response:
    answer = await students.ask(path, data)
    if answer.headers.get("content-type", "").startswith("text/event-stream"):
        return Relay(answer)
    try:
        async with closed(answer):
            content = await answer.aread()
    except httpx2.TransportError as error:
        raise away(error) from error
    return Response(content, media_type="application/json")
