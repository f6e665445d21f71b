"""An upload from the client's connection to the store, a piece at a time.

The store's client pulls, in a thread of its own: its reads go through the form to
the connection. So the client sends as fast as the store takes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import anyio
from anyio import CapacityLimiter
from starlette.types import Message, Receive

from qcrd.errors import Invalid, TooMany, Transient
from qcrd.records.job import StoredFile
from qcrd.runtime.storage.store import Store
from services.api.files import service as files
from services.api.files.multipart import Part, read_parts
from services.api.http.errors import ClientDisconnected

log = logging.getLogger(__name__)

MAX_CONCURRENT_UPLOADS = 8
"""Each upload takes a thread and up to 30 MB. Further ones wait, unread, in their connections."""
MAX_CONCURRENT_UPLOADS_PER_KEY = 6
"""Of these, so that a key whose uploads are slow leaves others a way through."""
WAIT_SECONDS = 15.0
"""How long an upload waits for its turn before its client is told to come again."""
MIN_LIFETIME_SECONDS, MAX_LIFETIME_SECONDS = 3600, 30 * 24 * 3600
"""Of `expires_after`, as OpenAI bounds it."""
MAX_FIELD_BYTES = 1000
"""Limit of a form field other than the file."""


@dataclass(frozen=True)
class UploadService:
    """Shared state of the uploads of one process: threads of their own, so that slow uploads do not
    block other routes, and the lock under which one of two equal files is dropped."""

    thread_limiter: CapacityLimiter = field(
        default_factory=lambda: CapacityLimiter(MAX_CONCURRENT_UPLOADS)
    )
    publish_lock: threading.Lock = field(default_factory=threading.Lock)
    max_per_key: int = MAX_CONCURRENT_UPLOADS_PER_KEY
    wait_seconds: float = WAIT_SECONDS
    _key_limiters: dict[str, CapacityLimiter] = field(default_factory=dict)
    """By key name, of the keys that upload now."""

    async def receive_file(
        self,
        store: Store,
        receive: Receive,
        boundary: bytes,
        *,
        limit: int,
        owner: str,
        check_digest: Callable[[str], None],
    ) -> StoredFile:
        """Store the file of a request by key `owner`, once `check_digest` accepts its digest. An
        upload that ends early leaves nothing in the store. `TooMany` for one that waited in vain.
        """
        upload = _UploadForm(store, limit)
        store_upload = partial(
            self._store_file, upload, _iter_body(receive), boundary, owner, check_digest
        )
        async with self._take_turn(owner):  # which bounds the threads, so none has to wait for one
            return await anyio.to_thread.run_sync(store_upload, limiter=CapacityLimiter(1))

    @asynccontextmanager
    async def _take_turn(self, owner: str) -> AsyncIterator[None]:
        """Wait first for one of the key's turns, then for one of the process's."""
        key_limiter = self._key_limiters.setdefault(owner, CapacityLimiter(self.max_per_key))
        turn = object()
        with ExitStack() as turns:
            turns.callback(self._forget_idle_key, owner)
            try:
                with anyio.fail_after(self.wait_seconds):
                    for limiter in (key_limiter, self.thread_limiter):
                        await limiter.acquire_on_behalf_of(turn)
                        turns.callback(limiter.release_on_behalf_of, turn)
            except TimeoutError:
                raise TooMany(
                    f"{int(self.thread_limiter.total_tokens)} uploads are under way here, and key "
                    f"{owner} has at most {self.max_per_key} of them: send the file again when one "
                    "is done",
                    code="share_exceeded",
                    retry_after=self.wait_seconds,
                ) from None
            yield

    def _forget_idle_key(self, owner: str) -> None:
        limiter = self._key_limiters.get(owner)
        if limiter is not None and not limiter.borrowed_tokens + limiter.statistics().tasks_waiting:
            del self._key_limiters[owner]

    def _store_file(
        self,
        upload: _UploadForm,
        chunks: Iterator[bytes],
        boundary: bytes,
        owner: str,
        check_digest: Callable[[str], None],
    ) -> StoredFile:
        with ExitStack() as undo:
            undo.callback(upload.delete_blob)
            for part in read_parts(chunks, boundary):
                upload.add_part(part)
            blob, filename, purpose, lifetime = upload.get_result()
            check_digest(blob.sha256)
            with self.publish_lock:
                stored = files.publish_file(
                    upload.store,
                    blob,
                    filename=filename,
                    owner=owner,
                    purpose=purpose,
                    lifetime=lifetime,
                )
            undo.pop_all()
            return stored


class _UploadForm:
    """`file` and `purpose`, each once, in any order."""

    def __init__(self, store: Store, limit: int) -> None:
        self.store = store
        self._limit = limit
        self._blob: files.Blob | None = None
        self._filename = ""
        self._purpose: str | None = None
        self._lifetime: float | None = None
        self._has_anchor = False

    def add_part(self, part: Part) -> None:
        if part.name == "file" and self._blob is None:
            if part.filename is None:
                raise Invalid("`file`: give it a `filename`, as a file has", param="file")
            self._filename = part.filename
            self._blob = files.write_blob(self.store, part.data, limit=self._limit)
        elif part.name == "purpose" and self._purpose is None:
            self._purpose = _read_text_field(part)
            files.check_purpose(self._purpose)
        elif part.name == "expires_after[anchor]":
            self._has_anchor = True
            if (anchor := _read_text_field(part)) != "created_at":
                raise _make_expiry_error(f"`anchor` must be `created_at`, not {anchor[:40]!r}")
        elif part.name == "expires_after[seconds]":
            self._lifetime = _read_lifetime(part)
        elif part.name in ("file", "purpose"):
            raise Invalid(f"`{part.name}` is there twice: send it once", param=part.name)
        else:
            name = part.name[:80]
            raise Invalid(
                f"unknown field `{name}`: an upload has `file`, `purpose`, "
                "`expires_after[anchor]` and `expires_after[seconds]`",
                param=name,
                code="unknown_key",
            )

    def get_result(self) -> tuple[files.Blob, str, str, float | None]:
        """The bytes, the file's name, its purpose, and how many seconds it is kept."""
        if self._blob is None:
            raise Invalid("`file`: Field required", param="file")
        if self._purpose is None:
            raise Invalid("`purpose`: Field required", param="purpose")
        if self._has_anchor and self._lifetime is None:
            raise _make_expiry_error("`seconds` is missing beside `anchor`")
        return self._blob, self._filename, self._purpose, self._lifetime

    def delete_blob(self) -> None:
        """Delete the blob; an unavailable store must not hide why the upload failed."""
        if self._blob is not None:
            try:
                self.store.delete(self._blob.key)
            except Transient as error:
                log.warning("could not delete the incomplete upload %s: %s", self._blob.key, error)


def _read_lifetime(part: Part) -> float:
    text = _read_text_field(part)
    seconds = int(text) if text.isascii() and text.isdecimal() else 0
    if not MIN_LIFETIME_SECONDS <= seconds <= MAX_LIFETIME_SECONDS:
        raise _make_expiry_error(
            f"`seconds` must be {MIN_LIFETIME_SECONDS} to {MAX_LIFETIME_SECONDS}, not {text[:40]!r}"
        )
    return float(seconds)


def _make_expiry_error(problem: str) -> Invalid:
    return Invalid(f"`expires_after`: {problem}", param="expires_after")


def _read_text_field(part: Part) -> str:
    value = bytearray()
    for piece in part.data:
        value += piece
        if len(value) > MAX_FIELD_BYTES:
            raise Invalid(f"`{part.name}` is longer than {MAX_FIELD_BYTES} bytes", param=part.name)
    return value.decode("utf-8", "replace")


def _iter_body(receive: Receive) -> Iterator[bytes]:
    """The body's pieces, for a thread that waits for each of them."""

    async def next_message() -> Message:
        return await receive()

    has_more = True
    while has_more:
        message = anyio.from_thread.run(next_message)
        if message["type"] == "http.disconnect":
            raise ClientDisconnected("the client hung up in the middle of its upload")
        has_more = message.get("more_body", False)
        if message.get("body"):
            yield message["body"]
