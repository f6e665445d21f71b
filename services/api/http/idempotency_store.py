"""Responses stored by `Idempotency-Key`, so that a repeated request changes nothing.

A response is kept for a day. While a request runs, its gateway renews a short lease on the key; if
the gateway dies, the next attempt runs. It creates nothing twice, as ids are derived from the key
(`idempotency.derive_id`).
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeGuard

from redis import Redis

from qcrd.errors import Conflict, UnreadableRecord
from qcrd.records.base import Record, StoredRecord, parse_stored_record
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

RETENTION_SECONDS = 24 * 3600
LEASE_SECONDS = 10.0
"""Seconds that a key stays leased after the last renewal by the gateway that runs its request."""


class StoredResponse(Record):
    status: int
    content_type: str
    body: str
    """The body's bytes decoded as Latin-1, which keeps any of them in JSON."""


class IdempotencyEntry(StoredRecord):
    """The entry of a name: the request's digest, its current holder and, once done, the response.

    Ids are derived from `seed`. It stays the same when the request is executed again, which
    `tries` counts, and is new when the name is reused after its release.
    """

    fingerprint: str
    seed: str
    holder: str
    tries: int = 1
    until: float = 0.0
    answer: StoredResponse | None = None


EntryUpdate = Callable[["IdempotencyEntry"], "IdempotencyEntry | None"]
"""Changes an entry for its holder; None removes it."""


class RequestInProgress(Conflict):
    """The first request with this key is still running."""

    default_code = "idempotency_in_progress"
    retry_after = 1.0


class IdempotencyStore(Protocol):
    """Entries by name. A `holder` is unique to one request, so none ends what another took over."""

    def begin(self, name: str, fingerprint: str, holder: str, now: float) -> IdempotencyEntry:
        """The entry with its response; without one the caller executes the request and leases
        `name` until `finish`, `release` or `LEASE_SECONDS` without `renew`.

        `Conflict` for another request under the same name, `RequestInProgress` while it runs.
        `UnreadableRecord` where the entry is of a release that this one cannot read, or damaged:
        its request may have been executed, and is not a second time.
        """

    def renew(self, name: str, holder: str, now: float) -> None: ...

    def finish(self, name: str, entry: IdempotencyEntry, response: StoredResponse) -> None:
        """Extend the lease; `entry` as `begin` returned it."""

    def release(self, name: str, holder: str, *, forget: bool) -> None:
        """End the lease without a response. A repeat runs, with the same seed unless `forget`."""


def claim_entry(
    entry: IdempotencyEntry | None, fingerprint: str, holder: str, now: float
) -> IdempotencyEntry:
    """The entry that `begin` writes in place of `entry`."""
    if entry is None:
        seed = secrets.token_hex(16)
        return IdempotencyEntry(
            fingerprint=fingerprint, seed=seed, holder=holder, until=now + LEASE_SECONDS
        )
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
        raise RequestInProgress(
            "the first request with this `Idempotency-Key` is still being answered: try again",
            param="Idempotency-Key",
        )
    attempts = entry.tries + (holder != entry.holder)
    changes = {"holder": holder, "until": now + LEASE_SECONDS, "tries": attempts}
    return entry.model_copy(update=changes)


def _make_renewal(now: float) -> EntryUpdate:
    return lambda entry: entry.model_copy(update={"until": now + LEASE_SECONDS})


def _set_response(entry: IdempotencyEntry, response: StoredResponse) -> IdempotencyEntry:
    return entry.model_copy(update={"answer": response})


def _make_release(forget: bool) -> EntryUpdate:
    return lambda entry: None if forget else entry.model_copy(update={"until": 0.0})


class MemoryIdempotencyStore:
    def __init__(self) -> None:
        self._entries: dict[str, IdempotencyEntry] = {}
        self._lock = threading.Lock()

    def begin(self, name: str, fingerprint: str, holder: str, now: float) -> IdempotencyEntry:
        with self._lock:
            self._entries[name] = claim_entry(self._entries.get(name), fingerprint, holder, now)
            return self._entries[name]

    def renew(self, name: str, holder: str, now: float) -> None:
        self._update_if_holder(name, holder, _make_renewal(now))

    def finish(self, name: str, entry: IdempotencyEntry, response: StoredResponse) -> None:
        self._update_if_holder(name, entry.holder, lambda _: _set_response(entry, response))

    def release(self, name: str, holder: str, *, forget: bool) -> None:
        self._update_if_holder(name, holder, _make_release(forget))

    def _update_if_holder(self, name: str, holder: str, update: EntryUpdate) -> None:
        with self._lock:
            entry = self._entries.get(name)
            if _is_pending_for(entry, holder):
                updated = update(entry)
                if updated is None:
                    del self._entries[name]
                else:
                    self._entries[name] = updated


FINISH_SCRIPT = """
local there = redis.call('GET', KEYS[1])
local is_json, entry = pcall(cjson.decode, there)
if is_json and type(entry) == 'table' and entry['holder'] == ARGV[1] then
    redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
end
"""
"""Replaces the holder's entry by one with the response; one that cannot be read stays. Every
response waits for it, so it is one command and not the three of a transaction."""


class RedisIdempotencyStore:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._finish_script = redis.register_script(FINISH_SCRIPT)

    def begin(self, name: str, fingerprint: str, holder: str, now: float) -> IdempotencyEntry:
        key, new_entry = (
            redis_keys.idempotency_key(name),
            claim_entry(None, fingerprint, holder, now),
        )
        with translate_redis_errors():
            # Most names are new and need one command only.
            if self._redis.set(key, new_entry.model_dump_json(), ex=RETENTION_SECONDS, nx=True):
                return new_entry
        claimed: list[IdempotencyEntry] = []

        def claim(entry: IdempotencyEntry | None) -> IdempotencyEntry | None:
            claimed[:] = [claim_entry(entry, fingerprint, holder, now)]
            return claimed[0]

        try:
            self._update(name, claim)
        except UnreadableRecord as error:
            raise UnreadableRecord(
                "what is kept of an earlier request with this `Idempotency-Key` cannot be read by "
                "this release, so nothing was done: see whether that request was carried out, and "
                f"if not, send this one under another key ({error.message})",
                param="Idempotency-Key",
            ) from error
        return claimed[0]

    def renew(self, name: str, holder: str, now: float) -> None:
        self._update_if_holder(name, holder, _make_renewal(now))

    def finish(self, name: str, entry: IdempotencyEntry, response: StoredResponse) -> None:
        entry_json = _set_response(entry, response).model_dump_json()
        with translate_redis_errors():
            self._finish_script(
                keys=[redis_keys.idempotency_key(name)],
                args=[entry.holder, entry_json, RETENTION_SECONDS],
            )

    def release(self, name: str, holder: str, *, forget: bool) -> None:
        self._update_if_holder(name, holder, _make_release(forget))

    def _update_if_holder(self, name: str, holder: str, update: EntryUpdate) -> None:
        # An entry that cannot be read is nobody's that this release knows.
        with suppress(UnreadableRecord):
            self._update(
                name, lambda entry: update(entry) if _is_pending_for(entry, holder) else entry
            )

    def _update(
        self, name: str, update: Callable[[IdempotencyEntry | None], IdempotencyEntry | None]
    ) -> None:
        """Replace the entry by `update` of it, atomically."""
        key = redis_keys.idempotency_key(name)

        def run_transaction(pipe: Any) -> None:
            raw = pipe.get(key)
            entry = None if raw is None else parse_stored_record(IdempotencyEntry, raw, key)
            updated = update(entry)
            pipe.multi()
            if updated is None:
                pipe.delete(key)
            elif updated != entry:
                pipe.set(key, updated.model_dump_json(), ex=RETENTION_SECONDS)

        with translate_redis_errors():
            self._redis.transaction(run_transaction, key)


def _is_pending_for(entry: IdempotencyEntry | None, holder: str) -> TypeGuard[IdempotencyEntry]:
    return entry is not None and entry.holder == holder and entry.answer is None
