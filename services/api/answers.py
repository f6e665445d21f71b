"""Answers that were given to an `Idempotency-Key`, so that asking again changes nothing.

An answer is kept for a day. While a request is being answered its gateway renews a short lease on
the key; if it dies, the next try goes ahead. That this creates nothing twice is the part of ids
that are derived from the key (`idempotency.fresh_id`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from redis import Redis

from qcrd.errors import Conflict
from qcrd.records import Record
from qcrd.runtime import keys
from qcrd.runtime.connection import redis_outage

KEPT_SECONDS = 24 * 3600
LEASE_SECONDS = 10.0
"""How long a key stays taken after the last sign of life of the gateway that answers it."""


class Answer(Record):
    status: int
    content_type: str
    body: str
    """Latin-1 of the bytes, so that any body is JSON-safe and comes back as it was."""


class Entry(Record):
    """What is known of a key: whose request it was, and its answer once there is one."""

    fingerprint: str
    until: float = 0.0
    answer: Answer | None = None


class Running(Conflict):
    """The first request with this key is still being answered."""

    default_code = "idempotency_in_progress"
    retry_after = 1.0


class Answers(Protocol):
    def begin(self, name: str, fingerprint: str, now: float) -> Answer | None:
        """The answer that was given; None when this request is to be answered, and then `name` is
        taken until `finish`, `forget` or `LEASE_SECONDS` without `renew`.

        `Conflict` for another request under the same name, `Running` while it is being answered.
        """

    def renew(self, name: str, now: float) -> None:
        """Keep the name taken; nothing for one that is answered or forgotten by now."""

    def finish(self, name: str, fingerprint: str, answer: Answer) -> None: ...

    def forget(self, name: str) -> None:
        """The request came to nothing: the next one with this name is answered afresh."""


def judged(entry: Entry | None, fingerprint: str, now: float) -> Answer | None:
    """What `begin` says of a name that `entry` stands under."""
    if entry is None:
        return None
    if entry.fingerprint != fingerprint:
        raise Conflict(
            "this `Idempotency-Key` was used for another request in the last 24 hours: give each "
            "request a key of its own",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    if entry.answer is None and entry.until > now:
        raise Running(
            "the first request with this `Idempotency-Key` is still being answered: try again",
            param="Idempotency-Key",
        )
    return entry.answer


class MemoryAnswers:
    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, fingerprint: str, now: float) -> Answer | None:
        with self._lock:
            found = judged(self._entries.get(name), fingerprint, now)
            if found is None:
                self._entries[name] = Entry(fingerprint=fingerprint, until=now + LEASE_SECONDS)
            return found

    def renew(self, name: str, now: float) -> None:
        with self._lock:
            entry = self._entries.get(name)
            if entry is not None and entry.answer is None:
                self._entries[name] = _longer(entry, now)

    def finish(self, name: str, fingerprint: str, answer: Answer) -> None:
        with self._lock:
            self._entries[name] = Entry(fingerprint=fingerprint, answer=answer)

    def forget(self, name: str) -> None:
        with self._lock:
            self._entries.pop(name, None)


class RedisAnswers:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def begin(self, name: str, fingerprint: str, now: float) -> Answer | None:
        taken = Entry(fingerprint=fingerprint, until=now + LEASE_SECONDS)
        # Most names are new, and then one command is enough.
        if self._set(name, taken, only_new=True):
            return None
        found: list[Answer | None] = []

        def change(entry: Entry | None) -> Entry | None:
            found[:] = [judged(entry, fingerprint, now)]
            return taken if found[0] is None else None

        self._change(name, change)
        return found[0]

    def renew(self, name: str, now: float) -> None:
        def change(entry: Entry | None) -> Entry | None:
            return None if entry is None or entry.answer else _longer(entry, now)

        self._change(name, change)

    def finish(self, name: str, fingerprint: str, answer: Answer) -> None:
        self._set(name, Entry(fingerprint=fingerprint, answer=answer))

    def forget(self, name: str) -> None:
        with redis_outage():
            self._redis.delete(keys.idempotency_key(name))

    def _set(self, name: str, entry: Entry, *, only_new: bool = False) -> bool:
        """Whether it was done: not when there is an entry and `only_new`."""
        key, body = keys.idempotency_key(name), entry.model_dump_json()
        with redis_outage():
            return bool(self._redis.set(key, body, ex=KEPT_SECONDS, nx=only_new))

    def _change(self, name: str, change: Callable[[Entry | None], Entry | None]) -> None:
        """Put what `change` makes of the entry in its place, atomically; None leaves it."""
        with redis_outage():
            self._redis.transaction(_changing(name, change), keys.idempotency_key(name))


def _changing(name: str, change: Callable[[Entry | None], Entry | None]) -> Callable[[Any], None]:
    def body(pipe: Any) -> None:
        key = keys.idempotency_key(name)
        there = pipe.get(key)
        entry = change(None if there is None else Entry.model_validate_json(there))
        pipe.multi()
        if entry is not None:
            pipe.set(key, entry.model_dump_json(), ex=KEPT_SECONDS)

    return body


def _longer(entry: Entry, now: float) -> Entry:
    return entry.model_copy(update={"until": now + LEASE_SECONDS})
