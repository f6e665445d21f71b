"""Connections that cost more than they bring: uvicorn's HTTP protocol with limits of its own.

uvicorn 0.54 waits for headers as long as a client likes, holds as many of them as it sends, answers
what it cannot parse in plain text, and resets a connection whose body it has not read to the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import uuid
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from services.api.http import schemas
from services.api.http.body_limits import FLOOR, FULL
from services.api.settings import ConnectionLimitSettings

log = logging.getLogger(__name__)

HEAD_BYTES = 64 << 10
"""Of a request's address and headers, four times what browsers and proxies send at most."""
OWN_FILES = 256
"""Besides connections: of logs, Redis, the store, and threads that read from it."""


def protocol(guard: ConnectionLimitSettings) -> type[asyncio.Protocol]:
    """For uvicorn, which makes one of it for each connection."""
    return type("GuardedProtocol", (Guarded,), {"guard": guard})


def open_files(connections: int) -> None:
    """Let the process have so many: many systems begin with 1,024 and allow more when asked."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OWN_FILES
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY,) and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning("this system allows %d open files: fewer than %d connections", allowed, wanted)


class Guarded(HttpToolsProtocol):
    guard: ClassVar[ConnectionLimitSettings]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._in_head, self._head_bytes, self._too_large = True, 0, False
        self._body_over, self._discarded = True, 0
        self._lingering = Lingering(cast(asyncio.Transport, transport), self)
        super().connection_made(cast(asyncio.Transport, self._lingering))
        if len(self.connections) > self.guard.connections:
            self.app_state = {**self.app_state, FULL: True}
        self._within(self.guard.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    # --- headers ---

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if len(self.connections) <= self.guard.connections:
            # A proxy keeps its connection for longer than the crowd stays.
            self.app_state = {**self.app_state, FULL: False}
        self._in_head, self._head_bytes, self._body_over = True, 0, False
        self._within(self.guard.header_seconds)

    def on_headers_complete(self) -> None:
        self._stop()
        self._in_head = False
        size = len(self.url) + sum(len(n) + len(v) + len(": \r\n") for n, v in self.headers)
        if size > HEAD_BYTES:
            self._too_large = True
            raise ValueError("the headers are too large")  # answered by `send_400_response`
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed, in the envelope that every other error has."""
        status, code = (431, "headers_too_large") if self._too_large else (400, "broken_http")
        told = f"more than {HEAD_BYTES} bytes of headers" if self._too_large else msg
        told = told or "this is no HTTP request"
        body = json.dumps(schemas.error(told, type="invalid_request_error", param=None, code=code))
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: req-{uuid.uuid4().hex[:24]}\r\nconnection: close\r\n\r\n"
        )
        self._body_over = True
        self.transport.write(STATUS_LINE[status] + head.encode() + body.encode())
        self.transport.close()

    # --- the rest of a body that was answered before it was read ---

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._discarded += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._body_over = True
        if self.cycle.response_complete and not self.pipeline:
            self._stop()
            self._rest()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.owes_body():
            self.flow.resume_reading()
            self._discarded = 0
            self._within(self.guard.body_seconds)

    def owes_body(self) -> bool:
        """Whether the client is still sending what nobody reads any more."""
        return self.cycle is not None and not self._body_over and not self._in_head

    def _rest(self) -> None:
        """The answered body has come to its end."""
        if self._lingering.is_closing():
            self._lingering.close_now()
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # --- time ---

    def timeout_keep_alive_handler(self) -> None:
        self._lingering.close_now()

    def _within(self, seconds: float) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self.owes_body() and self._discarded >= FLOOR:
            self._discarded = 0
            self._within(self.guard.body_seconds)
        else:
            self._lingering.close_now()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Lingering:
    """A transport that is closed only when the client has sent what it is about to send: the system
    answers bytes that nobody read with a reset, which takes the answer away (RFC 9112, 9.6)."""

    def __init__(self, transport: asyncio.Transport, connection: Guarded) -> None:
        self._transport = transport
        self._connection = connection
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        self._closing = True
        if self._connection.owes_body() and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close_now(self) -> None:
        self._closing = True
        self._transport.close()
