"""Answers that were given to an `Idempotency-Key`, so that asking again changes nothing.

An answer is kept for a day. While a request is being answered its gateway renews a short lease on
the key; if it dies, the next try goes ahead. That this creates nothing twice is the part of ids
that are derived from the key (`idempotency.fresh_id`).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeGuard

from redis import Redis

from qcrd.errors import Conflict
from qcrd.records.base import Record
from qcrd.runtime import keys
from qcrd.runtime.redis.connection import translate_redis_errors

KEPT_SECONDS = 24 * 3600
LEASE_SECONDS = 10.0
"""How long a key stays taken after the last sign of life of the gateway that answers it."""


class Answer(Record):
    status: int
    content_type: str
    body: str
    """Latin-1 of the bytes, so that any body is JSON-safe and comes back as it was."""


class Entry(Record):
    """What is known of a name: whose request it was, who answers it, and the answer in the end.

    `seed` is what ids are derived from. It stays when the request is carried out again, which
    `tries` counts, and is another one when the name is free again and used anew.
    """

    fingerprint: str
    seed: str
    holder: str
    tries: int = 1
    until: float = 0.0
    answer: Answer | None = None


Change = Callable[["Entry"], "Entry | None"]
"""Of an entry by its holder; None removes it."""


class Running(Conflict):
    """The first request with this key is still being answered."""

    default_code = "idempotency_in_progress"
    retry_after = 1.0


class Answers(Protocol):
    """`holder` is one request's own: nobody ends what another one has taken over."""

    def begin(self, name: str, fingerprint: str, holder: str, now: float) -> Entry:
        """With the answer that was given; without one this request is to be answered, and `name`
        is the holder's until `finish`, `release` or `LEASE_SECONDS` without `renew`.

        `Conflict` for another request under the same name, `Running` while it is being answered.
        """

    def renew(self, name: str, holder: str, now: float) -> None: ...

    def finish(self, name: str, entry: Entry, answer: Answer) -> None:
        """`entry` as `begin` gave it to its holder."""

    def release(self, name: str, holder: str, *, forget: bool) -> None:
        """Nothing is kept. The same request may go ahead, with the same seed unless `forget`."""


def judged(entry: Entry | None, fingerprint: str, holder: str, now: float) -> Entry:
    """The entry that stands after `begin` found `entry`."""
    if entry is None:
        seed = secrets.token_hex(16)
        return Entry(fingerprint=fingerprint, seed=seed, holder=holder, until=now + LEASE_SECONDS)
    if entry.fingerprint != fingerprint:
        raise Conflict(
            "this `Idempotency-Key` was used for another request in the last 24 hours: give each "
            "request a key of its own",
            param="Idempotency-Key",
            code="idempotency_key_reused",
        )
    if entry.answer is not None:
        return entry
    if entry.until > now and entry.holder != holder:
        raise Running(
            "the first request with this `Idempotency-Key` is still being answered: try again",
            param="Idempotency-Key",
        )
    tries = entry.tries + (holder != entry.holder)
    taken = {"holder": holder, "until": now + LEASE_SECONDS, "tries": tries}
    return entry.model_copy(update=taken)


def _renewed(now: float) -> Change:
    return lambda entry: entry.model_copy(update={"until": now + LEASE_SECONDS})


def _answered(entry: Entry, answer: Answer) -> Entry:
    return entry.model_copy(update={"answer": answer})


def _released(forget: bool) -> Change:
    return lambda entry: None if forget else entry.model_copy(update={"until": 0.0})


class MemoryAnswers:
    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, fingerprint: str, holder: str, now: float) -> Entry:
        with self._lock:
            self._entries[name] = judged(self._entries.get(name), fingerprint, holder, now)
            return self._entries[name]

    def renew(self, name: str, holder: str, now: float) -> None:
        self._change(name, holder, _renewed(now))

    def finish(self, name: str, entry: Entry, answer: Answer) -> None:
        self._change(name, entry.holder, lambda _: _answered(entry, answer))

    def release(self, name: str, holder: str, *, forget: bool) -> None:
        self._change(name, holder, _released(forget))

    def _change(self, name: str, holder: str, change: Change) -> None:
        with self._lock:
            entry = self._entries.get(name)
            if _is_of(entry, holder):
                after = change(entry)
                if after is None:
                    del self._entries[name]
                else:
                    self._entries[name] = after


FINISH = """
local there = redis.call('GET', KEYS[1])
if there and cjson.decode(there)['holder'] == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
"""
"""Puts an answer in the place of its holder's entry. Every answer waits for it, so it is one
command and not the three of a transaction."""


class RedisAnswers:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._finish = redis.register_script(FINISH)

    def begin(self, name: str, fingerprint: str, holder: str, now: float) -> Entry:
        key, fresh = keys.idempotency_key(name), judged(None, fingerprint, holder, now)
        with translate_redis_errors():
            # Most names are new, and then one command is enough.
            if self._redis.set(key, fresh.model_dump_json(), ex=KEPT_SECONDS, nx=True):
                return fresh
        found: list[Entry] = []

        def change(entry: Entry | None) -> Entry | None:
            found[:] = [judged(entry, fingerprint, holder, now)]
            return found[0]

        self._put(name, change)
        return found[0]

    def renew(self, name: str, holder: str, now: float) -> None:
        self._change(name, holder, _renewed(now))

    def finish(self, name: str, entry: Entry, answer: Answer) -> None:
        body = _answered(entry, answer).model_dump_json()
        with translate_redis_errors():
            self._finish(keys=[keys.idempotency_key(name)], args=[entry.holder, body, KEPT_SECONDS])

    def release(self, name: str, holder: str, *, forget: bool) -> None:
        self._change(name, holder, _released(forget))

    def _change(self, name: str, holder: str, change: Change) -> None:
        self._put(name, lambda entry: change(entry) if _is_of(entry, holder) else entry)

    def _put(self, name: str, change: Callable[[Entry | None], Entry | None]) -> None:
        """Put what `change` makes of the entry in its place, atomically."""
        key = keys.idempotency_key(name)

        def body(pipe: Any) -> None:
            there = pipe.get(key)
            before = None if there is None else Entry.model_validate_json(there)
            after = change(before)
            pipe.multi()
            if after is None:
                pipe.delete(key)
            elif after != before:
                pipe.set(key, after.model_dump_json(), ex=KEPT_SECONDS)

        with translate_redis_errors():
            self._redis.transaction(body, key)


def _is_of(entry: Entry | None, holder: str) -> TypeGuard[Entry]:
    return entry is not None and entry.holder == holder and entry.answer is None
