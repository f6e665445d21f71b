"""A request's body on its way in: not compressed, not too large, not too slow.

All of it is asked while the body is read, so that none has to be held to be refused.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import Invalid, QcrdError, Transient
from qcrd.runtime.telemetry import UNLOGGED_PATHS
from services.api.http.errors import ClientGone, TooLarge, TooSlow, UnsupportedType, answer


async def whole(receive: Receive) -> bytes:
    """`ClientGone` when the client hung up before its end. The body's limit is `incoming`'s."""
    body, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client hung up in the middle of its request")
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return bytes(body)


FLOOR = 16 << 10
"""Bytes that have to come while a body is waited for as long as `seconds`: 500 bytes a second at
30, which a modem of 1991 could send."""


class Pace:
    """Counts waiting only, so that a slow store is not the client's fault. Times in seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waited = 0.0
        self._came = 0

    @property
    def left(self) -> float:
        """How long the next piece may be waited for."""
        return max(0.0, self._seconds - self._waited)

    def came(self, size: int, waited: float) -> None:
        self._waited += waited
        self._came += size
        if self._came >= FLOOR:
            self._waited, self._came = 0.0, 0


JSON_BYTES = 4 << 20
"""A job's spec with a hundred worked examples stays below 1 MiB."""
MULTIPART_BYTES = 64 << 10
"""Boundaries, headers and the form's other fields around an uploaded file."""
UPLOADS = frozenset({("POST", "/v1/files")})
"""The routes whose bodies are files."""
FULL = "qcrd.full"
"""In a scope's state: the connection is one more than the server takes."""
BUSY_SECONDS = 10.0


class Incoming:
    """Answers what can be refused by the headers alone; what cannot, `receive` raises."""

    def __init__(self, app: ASGIApp, *, file_bytes: int, seconds: float) -> None:
        self._app = app
        self._file_bytes = file_bytes
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        upload = (scope["method"], scope["path"]) in UPLOADS
        shown = self._file_bytes if upload else JSON_BYTES
        body = Body(receive, send, shown, MULTIPART_BYTES if upload else 0, Pace(self._seconds))
        try:
            _refuse(scope, body)
        except QcrdError as error:
            await answer(error)(scope, receive, body.send)
        else:
            await self._app(scope, body.receive, body.send)


def _refuse(scope: Scope, body: Body) -> None:
    headers = Headers(scope=scope)
    if scope.get("state", {}).get(FULL) and scope["path"] not in UNLOGGED_PATHS:
        raise Transient(
            "the server has as many connections as it takes: come back",
            code="too_many_connections",
            retry_after=BUSY_SECONDS,
        )
    _check_host(headers.get("host", ""))
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedType(f"`Content-Encoding` is {encoding[:40]!r}: send the body as it is")
    declared = headers.get("content-length", "")
    if declared.isdecimal():
        body.check(int(declared))


def _check_host(host: str) -> None:
    """Routing builds URLs with it, in which half a bracket would be an error of ours."""
    try:
        urlsplit(f"http://{host}/")
    except ValueError as error:
        raise Invalid(f"`Host` is {host[:80]!r}, no host: {error}", code="invalid_host") from error


@dataclass
class Body:
    """`limit` is the one that is told; `around` is granted on top of it."""

    receive_next: Receive
    send_next: Send
    limit: int
    around: int
    pace: Pace
    size: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)
    answered: bool = field(default=False, init=False)
    too_slow: bool = field(default=False, init=False)

    def check(self, size: int) -> None:
        if size > self.limit + self.around:
            raise TooLarge(f"the body is larger than {self.limit} bytes")

    async def receive(self) -> Message:
        """`TooLarge` and `TooSlow` while the body is read; whoever is answered already is gone."""
        if self.over:  # only a disconnect can come, and it may take its time
            return await self.receive_next()
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.pace.left):
                message = await self.receive_next()
        except TimeoutError as error:
            if self.answered:
                return {"type": "http.disconnect"}
            self.too_slow = True
            raise TooSlow("the body comes too slowly: send it again, faster") from error
        self._count(message, time.monotonic() - started)
        return message

    def _count(self, message: Message, waited: float) -> None:
        came = len(message.get("body", b""))
        self.over = not message.get("more_body", False)
        self.pace.came(came, waited)
        self.size += came
        if not self.answered:
            self.check(self.size)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.answered = True
            if self.too_slow:  # or the rest of the body would be taken for the next request's
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        await self.send_next(message)
