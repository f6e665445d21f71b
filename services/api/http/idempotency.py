"""`Idempotency-Key` on every POST: a repeated request gets the first response and changes nothing.

Uploads are not covered: their body is never in memory as a whole. `record_upload` compares digests
instead, and a file's id is a digest of its content anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import Invalid, QcrdError, Transient
from qcrd.runtime import keys
from qcrd.runtime.http.asgi import replay_body
from qcrd.runtime.http.error_responses import build_error_response
from services.api.http.body_limits import UPLOAD_ROUTES, read_body
from services.api.http.idempotency_store import (
    LEASE_SECONDS,
    IdempotencyEntry,
    IdempotencyStore,
    StoredResponse,
)

log = logging.getLogger(__name__)

IDEMPOTENCY_HEADER = "idempotency-key"
IDEMPOTENCY_KEY_PATTERN = re.compile(r"[\x21-\x7e]{1,255}")
MAX_STORED_BODY_BYTES = 256 << 10
"""Bytes of a response that is stored, in the memory of the jobs' Redis. A longer one is not stored,
nor a stream, which may have ended with an error; their requests are executed again."""
EVENT_STREAM_TYPE = "text/event-stream"

_entry: ContextVar[IdempotencyEntry | None] = ContextVar("idempotency_entry", default=None)


def derive_id(prefix: str) -> str:
    """A new id; under an `Idempotency-Key` the same one every time, so that a request that is
    carried out again after a crash finds what it had created."""
    entry = _entry.get()
    return keys.new_id(prefix) if entry is None else f"{prefix}-{keys.digest(prefix, entry.seed)}"


def get_event_dedup_key(verb: str) -> str | None:
    """A name under which this request's event is emitted once, however often it is retried."""
    entry = _entry.get()
    return None if entry is None else f"{verb}-{entry.seed}"


def is_retry() -> bool:
    """Whether an earlier attempt was interrupted at an unknown point: its changes may have been
    made and are then no conflict."""
    entry = _entry.get()
    return entry is not None and entry.tries > 1


def get_entry_name(scope: Scope) -> str | None:
    """The entry's name: one per caller and key. `Invalid` for a malformed key."""
    header = Headers(scope=scope).get(IDEMPOTENCY_HEADER)
    if header is None:
        return None
    if not IDEMPOTENCY_KEY_PATTERN.fullmatch(header):
        raise Invalid(
            "`Idempotency-Key` must be 1 to 255 visible ASCII characters, such as a UUID",
            param="Idempotency-Key",
        )
    return keys.digest(scope["state"]["key"].name, header)


def record_upload(store: IdempotencyStore, name: str | None, digest: str) -> None:
    """`Conflict` when this name was used for another `digest` in the last 24 hours."""
    if name is not None:
        entry = store.begin(name, digest, secrets.token_hex(8), time.time())
        if entry.answer is None:
            store.finish(name, entry, StoredResponse(status=200, content_type="", body=""))


class IdempotencyMiddleware:
    """Stores and replays responses to POST requests that have the header."""

    def __init__(self, app: ASGIApp, *, store: IdempotencyStore) -> None:
        self._app = app
        self._store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["method"] != "POST"
            or (scope["method"], scope["path"]) in UPLOAD_ROUTES
        ):
            await self._app(scope, receive, send)
            return
        try:
            entry_name = get_entry_name(scope) if scope["path"].startswith("/v1/") else None
            if entry_name is None:
                await self._app(scope, receive, send)
                return
            body = await read_body(receive)
            path = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
            fingerprint, holder = keys.digest(path, body), secrets.token_hex(8)
            entry = await run_in_threadpool(
                self._store.begin, entry_name, fingerprint, holder, time.time()
            )
        except QcrdError as error:
            await build_error_response(error)(scope, receive, send)
        else:
            if entry.answer is not None:
                await _send_stored_response(entry.answer, send)
            else:
                await self._handle_and_store(
                    entry_name, entry, scope, replay_body(body, receive), send
                )

    async def _handle_and_store(
        self, entry_name: str, entry: IdempotencyEntry, scope: Scope, receive: Receive, send: Send
    ) -> None:
        recorder = _ResponseRecorder(send)
        token = _entry.set(entry)
        try:
            async with self._keep_lease(entry_name, entry.holder):
                await self._app(scope, receive, recorder)
        finally:
            _entry.reset(token)
            await asyncio.shield(
                run_in_threadpool(self._store_response, entry_name, entry, recorder)
            )

    def _store_response(
        self, entry_name: str, entry: IdempotencyEntry, recorder: _ResponseRecorder
    ) -> None:
        response = recorder.get_storable_response()
        try:
            if response is not None:
                self._store.finish(entry_name, entry, response)
            else:
                self._store.release(entry_name, entry.holder, forget=recorder.is_client_error)
        except Transient as error:
            # The request was executed; a repeat derives the same ids from the seed.
            log.warning("response not stored for its Idempotency-Key: %s", error)

    @asynccontextmanager
    async def _keep_lease(self, entry_name: str, holder: str) -> AsyncIterator[None]:
        async def renew_periodically() -> None:
            while True:
                await asyncio.sleep(LEASE_SECONDS / 3)
                with contextlib.suppress(Transient):
                    await run_in_threadpool(self._store.renew, entry_name, holder, time.time())

        renewal = asyncio.create_task(renew_periodically())
        try:
            yield
        finally:
            renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewal


class _ResponseRecorder:
    """Forwards a response and records it, unless it is too long or no success."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status = 0
        self._content_type = ""
        self._body = bytearray()
        self._is_complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = Headers(raw=message.get("headers", []))
            self._content_type = headers.get("content-type", "")
        elif message["type"] == "http.response.body":
            if len(self._body) <= MAX_STORED_BODY_BYTES:
                self._body += message.get("body", b"")
            self._is_complete = not message.get("more_body", False)
        await self._send(message)

    @property
    def is_client_error(self) -> bool:
        """Whether nothing was changed and a retry may succeed, so that the key is released."""
        return 400 <= self._status < 500

    def get_storable_response(self) -> StoredResponse | None:
        """The recorded response; None for a failed, incomplete or too long one."""
        is_stream = self._content_type.startswith(EVENT_STREAM_TYPE)
        if (
            is_stream
            or not self._is_complete
            or self._status >= 300
            or len(self._body) > MAX_STORED_BODY_BYTES
        ):
            return None
        body = self._body.decode("latin-1")
        return StoredResponse(status=self._status, content_type=self._content_type, body=body)


async def _send_stored_response(response: StoredResponse, send: Send) -> None:
    headers = [
        (b"content-type", response.content_type.encode("latin-1")),
        (b"idempotent-replayed", b"true"),
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body.encode("latin-1")})
