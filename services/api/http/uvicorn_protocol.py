"""uvicorn's HTTP protocol with limits: time for headers, their size, number of connections.

uvicorn 0.54 waits for headers as long as a client likes, buffers as many of them as it sends,
responds in plain text to what it cannot parse, and resets a connection whose body it has not read
to the end.
"""

from __future__ import annotations

import asyncio
import json
import logging
import resource
import uuid
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from qcrd.runtime.http.error_body import build_error_body
from services.api.http.body_limits import CONNECTIONS_EXCEEDED, MIN_BYTES_PER_DEADLINE
from services.api.settings import ConnectionLimitSettings

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 << 10
"""Bytes of a request's URL and headers: four times what browsers and proxies send at most."""
RESERVED_FILE_DESCRIPTORS = 256
"""File descriptors besides connections: logs, Redis, the store and the threads that read it."""


def make_protocol_class(limits: ConnectionLimitSettings) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn, which creates one instance per connection."""
    return type("LimitedHttpProtocolWithLimits", (LimitedHttpProtocol,), {"limits": limits})


def raise_open_file_limit(max_connections: int) -> None:
    """Raise the limit of file descriptors: many systems start with 1,024 and allow more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    required = max_connections + RESERVED_FILE_DESCRIPTORS
    allowed = required if hard == resource.RLIM_INFINITY else min(required, hard)
    if soft not in (resource.RLIM_INFINITY,) and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < required:
        log.warning(
            "this system allows %d open files: fewer than %d connections", allowed, required
        )


class LimitedHttpProtocol(HttpToolsProtocol):
    limits: ClassVar[ConnectionLimitSettings]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._timer: asyncio.TimerHandle | None = None
        self._reading_headers, self._header_bytes, self._headers_too_large = True, 0, False
        self._body_complete, self._discarded_bytes = True, 0
        self._lingering_transport = LingeringTransport(cast(asyncio.Transport, transport), self)
        super().connection_made(cast(asyncio.Transport, self._lingering_transport))
        if len(self.connections) > self.limits.connections:
            self.app_state = {**self.app_state, CONNECTIONS_EXCEEDED: True}
        self._start_timer(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    # --- headers ---

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._reading_headers and not self.transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                self._headers_too_large = True
                self.send_400_response("")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if len(self.connections) <= self.limits.connections:
            # Checked per request: a proxy keeps its connection open after the peak.
            self.app_state = {**self.app_state, CONNECTIONS_EXCEEDED: False}
        self._reading_headers, self._header_bytes, self._body_complete = True, 0, False
        self._start_timer(self.limits.header_seconds)

    def on_headers_complete(self) -> None:
        self._cancel_timer()
        self._reading_headers = False
        size = len(self.url) + sum(len(n) + len(v) + len(": \r\n") for n, v in self.headers)
        if size > MAX_HEADER_BYTES:
            self._headers_too_large = True
            raise ValueError("the headers are too large")  # handled by `send_400_response`
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """The response to a request that cannot be parsed, as the usual error envelope."""
        status, code = (
            (431, "headers_too_large") if self._headers_too_large else (400, "broken_http")
        )
        message = (
            f"more than {MAX_HEADER_BYTES} bytes of headers" if self._headers_too_large else msg
        )
        message = message or "this is no HTTP request"
        body = json.dumps(
            build_error_body(message, type="invalid_request_error", param=None, code=code)
        )
        header_block = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: req-{uuid.uuid4().hex[:24]}\r\nconnection: close\r\n\r\n"
        )
        self._body_complete = True
        self.transport.write(STATUS_LINE[status] + header_block.encode() + body.encode())
        self.transport.close()

    # --- the rest of a body whose response was sent before it was read ---

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._discarded_bytes += len(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._body_complete = True
        if self.cycle.response_complete and not self.pipeline:
            self._cancel_timer()
            self._on_body_drained()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.has_unread_body():
            self.flow.resume_reading()
            self._discarded_bytes = 0
            self._start_timer(self.limits.body_seconds)

    def has_unread_body(self) -> bool:
        """Whether the client is still sending a body whose response is complete."""
        return self.cycle is not None and not self._body_complete and not self._reading_headers

    def _on_body_drained(self) -> None:
        """Finish: the body has ended after its response."""
        if self._lingering_transport.is_closing():
            self._lingering_transport.close_now()
        elif self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    # --- time ---

    def timeout_keep_alive_handler(self) -> None:
        self._lingering_transport.close_now()

    def _start_timer(self, seconds: float) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _on_timeout(self) -> None:
        if self.has_unread_body() and self._discarded_bytes >= MIN_BYTES_PER_DEADLINE:
            self._discarded_bytes = 0
            self._start_timer(self.limits.body_seconds)
        else:
            self._lingering_transport.close_now()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class LingeringTransport:
    """A transport that is closed only when the client has finished sending: the system resets a
    connection with unread bytes, which loses the response (RFC 9112, 9.6)."""

    def __init__(self, transport: asyncio.Transport, http_protocol: LimitedHttpProtocol) -> None:
        self._transport = transport
        self._http_protocol = http_protocol
        self._closing = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        self._closing = True
        if self._http_protocol.has_unread_body() and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close_now(self) -> None:
        self._closing = True
        self._transport.close()
