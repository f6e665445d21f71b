"""`Idempotency-Key` on every POST: the same request again gets the same answer, and does nothing.

Uploads are not here: their body is never held in memory. `uploaded` compares what arrived instead,
and a file's id is a digest of its content anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from qcrd.errors import Invalid, QcrdError, Transient
from qcrd.runtime import keys
from services.api.answers import LEASE_SECONDS, Answer, Answers
from services.api.bodies import again, whole
from services.api.errors import answer

log = logging.getLogger(__name__)

HEADER = "idempotency-key"
FORM = re.compile(r"[\x21-\x7e]{1,255}")
LARGEST = 4 << 20
"""Bytes of an answer that is kept; a longer one (a long stream) is not, and is made again."""

_name: ContextVar[str | None] = ContextVar("idempotency_name", default=None)


def fresh_id(prefix: str) -> str:
    """A new id; under an `Idempotency-Key` the same one every time, so that a request that is
    answered again after a crash finds what it had created."""
    name = _name.get()
    return keys.new_id(prefix) if name is None else f"{prefix}-{keys.digest(prefix, name)}"


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
    if name is not None and answers.begin(name, content, time.time()) is None:
        answers.finish(name, content, Answer(status=200, content_type="", body=""))


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
            fingerprint = keys.digest(path, body)
            begun = await run_in_threadpool(self._answers.begin, name, fingerprint, time.time())
        except QcrdError as error:
            await answer(error)(scope, receive, send)
        else:
            if begun is not None:
                await _replay(begun, send)
            else:
                await self._answered(name, fingerprint, scope, again(body, receive), send)

    async def _answered(
        self, name: str, fingerprint: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        kept = _Recorder(send)
        token = _name.set(name)
        try:
            async with self._renewed(name):
                await self._app(scope, receive, kept)
        finally:
            _name.reset(token)
            await asyncio.shield(run_in_threadpool(self._settle, name, fingerprint, kept.answer()))

    def _settle(self, name: str, fingerprint: str, given: Answer | None) -> None:
        try:
            if given is None:
                self._answers.forget(name)
            else:
                self._answers.finish(name, fingerprint, given)
        except Transient as error:
            # The request was carried out, and its id is derived from the key: that is enough.
            log.warning("the answer is not kept: %s", error)

    @asynccontextmanager
    async def _renewed(self, name: str) -> AsyncIterator[None]:
        async def beat() -> None:
            while True:
                await asyncio.sleep(LEASE_SECONDS / 3)
                with contextlib.suppress(Transient):
                    await run_in_threadpool(self._answers.renew, name, time.time())

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

    def answer(self) -> Answer | None:
        """None for what is to be tried afresh: a refusal, or an answer that broke off."""
        if not self._whole or self._status >= 300 or len(self._body) > LARGEST:
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
