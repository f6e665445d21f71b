"""`Idempotency-Key` on every POST: the same request again gets the same answer, and does nothing.

Uploads are not here: their body is never held in memory. `uploaded` compares what arrived instead,
and a file's id is a digest of its content anyway.
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
from services.api.http.body_limits import whole
from services.api.http.errors import answer
from services.api.http.idempotency_store import LEASE_SECONDS, Answer, Answers, Entry

log = logging.getLogger(__name__)

HEADER = "idempotency-key"
FORM = re.compile(r"[\x21-\x7e]{1,255}")
LARGEST = 256 << 10
"""Bytes of an answer that is kept, in the memory of the Redis that has the jobs. A longer one is
made again, and so is a stream, which may have ended with an error of its own."""
STREAM = "text/event-stream"

_entry: ContextVar[Entry | None] = ContextVar("idempotency_entry", default=None)


def fresh_id(prefix: str) -> str:
    """A new id; under an `Idempotency-Key` the same one every time, so that a request that is
    carried out again after a crash finds what it had created."""
    entry = _entry.get()
    return keys.new_id(prefix) if entry is None else f"{prefix}-{keys.digest(prefix, entry.seed)}"


def once(verb: str) -> str | None:
    """A name under which the event of this request is told once, however often it is tried."""
    entry = _entry.get()
    return None if entry is None else f"{verb}-{entry.seed}"


def repeated() -> bool:
    """Whether this request was begun before and nobody knows how far it came: what it asks for may
    have happened, and is then no conflict."""
    entry = _entry.get()
    return entry is not None and entry.tries > 1


def name_of(scope: Scope) -> str | None:
    """Under which the answer to this request is kept: one per caller and key. `Invalid`."""
    given = Headers(scope=scope).get(HEADER)
    if given is None:
        return None
    if not FORM.fullmatch(given):
        raise Invalid(
            "`Idempotency-Key` must be 1 to 255 visible ASCII characters, such as a UUID",
            param="Idempotency-Key",
        )
    return keys.digest(scope["state"]["key"].name, given)


def uploaded(answers: Answers, name: str | None, content: str) -> None:
    """`Conflict` when this name was used for other `content` (a digest) in the last 24 hours."""
    if name is not None:
        entry = answers.begin(name, content, secrets.token_hex(8), time.time())
        if entry.answer is None:
            answers.finish(name, entry, Answer(status=200, content_type="", body=""))


class Idempotency:
    """Keeps and replays answers of POST requests that carry the header."""

    def __init__(self, app: ASGIApp, *, answers: Answers) -> None:
        self._app = app
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] == "/v1/files":
            await self._app(scope, receive, send)
            return
        try:
            name = name_of(scope) if scope["path"].startswith("/v1/") else None
            if name is None:
                await self._app(scope, receive, send)
                return
            body = await whole(receive)
            path = f"{scope['path']}?{scope['query_string'].decode('latin-1')}"
            fingerprint, holder = keys.digest(path, body), secrets.token_hex(8)
            entry = await run_in_threadpool(
                self._answers.begin, name, fingerprint, holder, time.time()
            )
        except QcrdError as error:
            await answer(error)(scope, receive, send)
        else:
            if entry.answer is not None:
                await _replay(entry.answer, send)
            else:
                await self._answered(name, entry, scope, replay_body(body, receive), send)

    async def _answered(
        self, name: str, entry: Entry, scope: Scope, receive: Receive, send: Send
    ) -> None:
        kept = _Recorder(send)
        token = _entry.set(entry)
        try:
            async with self._renewed(name, entry.holder):
                await self._app(scope, receive, kept)
        finally:
            _entry.reset(token)
            await asyncio.shield(run_in_threadpool(self._settle, name, entry, kept))

    def _settle(self, name: str, entry: Entry, kept: _Recorder) -> None:
        given = kept.answer()
        try:
            if given is not None:
                self._answers.finish(name, entry, given)
            else:
                self._answers.release(name, entry.holder, forget=kept.refused)
        except Transient as error:
            # The request was carried out, and its ids are derived from the seed: that is enough.
            log.warning("the answer is not kept: %s", error)

    @asynccontextmanager
    async def _renewed(self, name: str, holder: str) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await asyncio.sleep(LEASE_SECONDS / 3)
                with contextlib.suppress(Transient):
                    await run_in_threadpool(self._answers.renew, name, holder, time.time())

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await beating


class _Recorder:
    """Passes an answer on and remembers it, unless it is too long or no success."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status = 0
        self._type = ""
        self._body = bytearray()
        self._whole = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = Headers(raw=message.get("headers", []))
            self._type = headers.get("content-type", "")
        elif message["type"] == "http.response.body":
            if len(self._body) <= LARGEST:
                self._body += message.get("body", b"")
            self._whole = not message.get("more_body", False)
        await self._send(message)

    @property
    def refused(self) -> bool:
        """Nothing was done, for a cause that may be mended: the key is free again."""
        return 400 <= self._status < 500

    def answer(self) -> Answer | None:
        """None for what is to be made again: no success, one that broke off or was too long."""
        stream = self._type.startswith(STREAM)
        if stream or not self._whole or self._status >= 300 or len(self._body) > LARGEST:
            return None
        body = self._body.decode("latin-1")
        return Answer(status=self._status, content_type=self._type, body=body)


async def _replay(given: Answer, send: Send) -> None:
    headers = [
        (b"content-type", given.content_type.encode("latin-1")),
        (b"idempotent-replayed", b"true"),
    ]
    await send({"type": "http.response.start", "status": given.status, "headers": headers})
    await send({"type": "http.response.body", "body": given.body.encode("latin-1")})
