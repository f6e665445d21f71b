"""Request body limits: not compressed, not too large, not too slow.

The limits are checked while the body is read, so that none is kept in memory to be refused.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import Invalid, QcrdError, Transient
from qcrd.runtime.http.error_responses import build_error_response
from qcrd.runtime.telemetry import UNLOGGED_PATHS
from services.api.http.errors import (
    ClientDisconnected,
    PayloadTooLarge,
    RequestTimeout,
    UnsupportedMediaType,
)


async def read_body(receive: Receive) -> bytes:
    """The whole body, within the middleware's limit. `ClientDisconnected` when the client hung up
    before its end."""
    body, has_more = bytearray(), True
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("the client hung up in the middle of its request")
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    return bytes(body)


MIN_BYTES_PER_DEADLINE = 16 << 10
"""Bytes that must arrive within `seconds` of waiting: at 30 seconds about 500 a second, far below
any connection in use."""


class ReceiveDeadline:
    """A deadline that counts waiting for the client only, not for a slow store. In seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waited_seconds = 0.0
        self._received_bytes = 0

    @property
    def remaining(self) -> float:
        """Seconds left for the next piece."""
        return max(0.0, self._seconds - self._waited_seconds)

    def record(self, size: int, waited: float) -> None:
        self._waited_seconds += waited
        self._received_bytes += size
        if self._received_bytes >= MIN_BYTES_PER_DEADLINE:
            self._waited_seconds, self._received_bytes = 0.0, 0


MAX_JSON_BYTES = 4 << 20
"""A job's spec with a hundred worked examples stays below 1 MiB."""
MULTIPART_OVERHEAD_BYTES = 64 << 10
"""Boundaries, headers and the form's other fields around an uploaded file."""
UPLOAD_ROUTES = frozenset({("POST", "/v1/files")})
"""The routes whose bodies are files."""
CONNECTIONS_EXCEEDED = "qcrd.full"
"""Key in a scope's state: the connection exceeds the server's limit."""
CONNECTIONS_EXCEEDED_RETRY_SECONDS = 10.0


class BodyLimitMiddleware:
    """Refuses requests by their headers where those suffice; else `receive` raises."""

    def __init__(self, app: ASGIApp, *, max_file_bytes: int, timeout_seconds: float) -> None:
        self._app = app
        self._max_file_bytes = max_file_bytes
        self._timeout_seconds = timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_upload = (scope["method"], scope["path"]) in UPLOAD_ROUTES
        limit = self._max_file_bytes if is_upload else MAX_JSON_BYTES
        body = LimitedBody(
            receive,
            send,
            limit,
            MULTIPART_OVERHEAD_BYTES if is_upload else 0,
            ReceiveDeadline(self._timeout_seconds),
        )
        try:
            _check_headers(scope, body)
        except QcrdError as error:
            await build_error_response(error)(scope, receive, body.send)
        else:
            await self._app(scope, body.receive, body.send)


def _check_headers(scope: Scope, body: LimitedBody) -> None:
    headers = Headers(scope=scope)
    if scope.get("state", {}).get(CONNECTIONS_EXCEEDED) and scope["path"] not in UNLOGGED_PATHS:
        raise Transient(
            "the server is at its limit of connections: retry later",
            code="too_many_connections",
            retry_after=CONNECTIONS_EXCEEDED_RETRY_SECONDS,
        )
    _check_host(headers.get("host", ""))
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(
            f"`Content-Encoding` is {encoding[:40]!r}: send the body as it is"
        )
    content_length = headers.get("content-length", "")
    if content_length.isdecimal():
        body.check_size(int(content_length))


def _check_host(host: str) -> None:
    """`Invalid` for a malformed host: routing builds URLs from it and would crash."""
    try:
        urlsplit(f"http://{host}/")
    except ValueError as error:
        raise Invalid(f"`Host` is {host[:80]!r}, no host: {error}", code="invalid_host") from error


@dataclass
class LimitedBody:
    """A body under `limit`, which errors name, plus `overhead`, which they do not."""

    receive_next: Receive
    send_next: Send
    limit: int
    overhead: int
    deadline: ReceiveDeadline
    received_bytes: int = field(default=0, init=False)
    is_complete: bool = field(default=False, init=False)
    response_started: bool = field(default=False, init=False)
    timed_out: bool = field(default=False, init=False)

    def check_size(self, byte_count: int) -> None:
        if byte_count > self.limit + self.overhead:
            raise PayloadTooLarge(f"the body is larger than {self.limit} bytes")

    async def receive(self) -> Message:
        """The next message. `PayloadTooLarge` or `RequestTimeout` while the body is read; a
        disconnect once the response has started."""
        if self.is_complete:  # only a disconnect can come, and it may take its time
            return await self.receive_next()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.deadline.remaining):
                message = await self.receive_next()
        except TimeoutError as error:
            if self.response_started:
                return {"type": "http.disconnect"}
            self.timed_out = True
            raise RequestTimeout("the body comes too slowly: send it again, faster") from error
        self._count_message(message, time.monotonic() - started)
        return message

    def _count_message(self, message: Message, waited_seconds: float) -> None:
        received = len(message.get("body", b""))
        self.is_complete = not message.get("more_body", False)
        self.deadline.record(received, waited_seconds)
        self.received_bytes += received
        if not self.response_started:
            self.check_size(self.received_bytes)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.response_started = True
            if self.timed_out:  # or the rest of the body would be parsed as the next request
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await self.send_next(message)
