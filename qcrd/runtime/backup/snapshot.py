"""A backup of what is in Redis alone: living jobs, their events, paid generations and accounts.

Nothing stands still while it is made. Accounts are read before the generations they paid for: what
is answered in between is then at worst counted twice, and never paid twice. What is derived (the
sorted sets of jobs, queues of messages) and what lasts seconds (locks, limits) is left out.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import zstandard
from redis import Redis
from redis.exceptions import ResponseError

from qcrd.errors import Invalid
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

FORMAT = "qcrd-backup-1"
KINDS = (
    redis_keys.job_key(""),
    redis_keys.events_key(""),
    redis_keys.emitted_once_key(""),
    redis_keys.token_account_key(""),
    redis_keys.generation_buffer_key(""),
    redis_keys.webhook_key(""),
    redis_keys.idempotency_key(""),
    redis_keys.teacher_note_key("learnt", ""),
    redis_keys.COUNTERS,
    redis_keys.WEBHOOKS_DUE,
)
"""What keys begin with, in the order in which they are read: a job before what it refers to."""
STREAM_PAGE = 1000


@dataclass(frozen=True)
class Entry:
    """One key: its type in Redis, its value, and the seconds it still lives, None for ever."""

    key: str
    type: str
    value: Any
    seconds: float | None


def write_backup(redis: Redis, path: Path) -> int:
    """Write everything to `path` and return how many keys; `Transient` when Redis goes away, and
    then there is no file. The last line says how many lines a whole backup has."""
    temporary = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with (
            _open_private(temporary) as file,
            zstandard.ZstdCompressor(6).stream_writer(file) as out,
        ):
            _write_line(out, {"format": FORMAT, "created_at": time.time()})
            for entry in iter_entries(redis):
                value = [entry.key, entry.type, entry.seconds, entry.value]
                _write_line(out, value)
                count += 1
            _write_line(out, {"entries": count})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _open_private(path: Path) -> IO[bytes]:
    """Readable by its owner alone from its first byte on."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")


def _write_line(out: IO[bytes] | Any, value: Any) -> None:
    # As they came from Redis: a value that is no UTF-8 is kept as it is.
    out.write(json.dumps(value, ensure_ascii=False).encode(errors="surrogateescape") + b"\n")


def iter_entries(redis: Redis) -> Iterator[Entry]:
    with translate_redis_errors():
        for kind in KINDS:
            for key in sorted(set(redis.scan_iter(match=f"{_escape(kind)}*", count=1000))):
                if (entry := _read_entry(redis, key)) is not None:
                    yield entry


def _escape(pattern: str) -> str:
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in pattern)


def _read_entry(redis: Redis, key: str) -> Entry | None:
    """None for a key that is gone since it was listed."""
    type = cast(str, redis.type(key))
    readers: dict[str, Callable[[], Any]] = {
        "string": lambda: redis.get(key),
        "hash": lambda: redis.hgetall(key),
        "zset": lambda: redis.zrange(key, 0, -1, withscores=True),
        "stream": lambda: _read_stream(redis, key),
    }
    if type not in readers:
        return None
    value, remaining = readers[type](), redis.pttl(key)
    if not value:
        return None
    return Entry(key, type, value, remaining / 1000 if remaining > 0 else None)


def _read_stream(redis: Redis, key: str) -> dict[str, Any] | None:
    """The entries, and how many there ever were: of a log that was trimmed the archive has some."""
    try:
        found = redis.xinfo_stream(key)
    except ResponseError:
        return None
    entries = list(_iter_stream(redis, key))
    # What was appended since the look is among them.
    last = max([found["last-generated-id"], *(entry[0] for entry in entries[-1:])], key=order_id)
    return {"entries": entries, "added": found["entries-added"], "last": last}


def order_id(entry_id: str) -> tuple[int, int]:
    """What Redis sorts the ids of a stream by."""
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)


def _iter_stream(redis: Redis, key: str) -> Iterator[Any]:
    after = "-"
    while page := cast("list[Any]", redis.xrange(key, after, count=STREAM_PAGE)):
        yield from page
        after = f"({page[-1][0]}"


def read_backup(path: Path) -> Iterator[Entry]:
    """The entries of a whole backup. `Invalid` for a file that is none, or not all of one: it is
    read to its end before the first entry is given."""
    _check_whole(path)
    for line in _iter_lines(path):
        if isinstance(line, list):
            key, type, seconds, value = line
            yield Entry(key, type, value, seconds)


def _check_whole(path: Path) -> None:
    with _translate_errors(path), path.open("rb") as file:
        if file.read(4) != zstandard.MAGIC_NUMBER.to_bytes(4, "little"):
            raise _make_foreign_error(path)
    first, last, entries = None, None, 0
    for last in _iter_lines(path):
        first = first or last
        entries += isinstance(last, list)
    if first is not None and (not isinstance(first, dict) or first.get("format") != FORMAT):
        raise _make_foreign_error(path)
    if last != {"entries": entries}:
        raise Invalid(f"{path} is not whole: it broke off after {entries} entries; take another")


def _make_foreign_error(path: Path) -> Invalid:
    return Invalid(f"{path} is no backup that this release reads: make one with `qcrd backup`")


def _iter_lines(path: Path) -> Iterator[Any]:
    with (
        _translate_errors(path),
        path.open("rb") as file,
        zstandard.open(file, "rt", encoding="utf-8", errors="surrogateescape") as lines,
    ):
        for line in lines:
            yield json.loads(line)


@contextmanager
def _translate_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from error
    except (zstandard.ZstdError, ValueError, EOFError) as error:
        raise Invalid(f"{path} is not a whole backup: {error}") from error
