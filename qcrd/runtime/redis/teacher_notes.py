"""What processes tell each other of teachers: which parameters they refuse, and how they are.

A teacher is named by a digest of its configuration, so that nothing of another server counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from redis import Redis

from qcrd.errors import UnreadableRecord
from qcrd.records.base import StoredRecord, parse_stored_record
from qcrd.records.teachers.notes import LearntParameters, TeacherCheck
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import translate_redis_errors

log = logging.getLogger(__name__)

LEARNT_SECONDS = 86_400.0
"""After which a refusal is met again: servers change, and a refusal costs no tokens."""
CHECK_SECONDS = 300.0
"""After which a check says nothing more, where no worker is left to make another one."""

RecordT = TypeVar("RecordT", bound=StoredRecord)


class TeacherNotes(Protocol):
    """Every method raises `Transient` while Redis is unavailable. What is older than its time, or
    another release's, is not there."""

    def read_learnt(self, teacher: str) -> LearntParameters:
        """An empty one of a teacher of which nothing is known."""

    def write_learnt(self, teacher: str, learnt: LearntParameters) -> None: ...

    def read_check(self, teacher: str) -> TeacherCheck | None: ...

    def write_check(self, teacher: str, check: TeacherCheck) -> None: ...


class MemoryTeacherNotes:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._notes: dict[str, tuple[float, StoredRecord]] = {}

    def read_learnt(self, teacher: str) -> LearntParameters:
        found = self._read(redis_keys.teacher_note_key("learnt", teacher))
        return cast(LearntParameters, found or LearntParameters())

    def write_learnt(self, teacher: str, learnt: LearntParameters) -> None:
        self._write(redis_keys.teacher_note_key("learnt", teacher), learnt, LEARNT_SECONDS)

    def read_check(self, teacher: str) -> TeacherCheck | None:
        return cast(
            "TeacherCheck | None", self._read(redis_keys.teacher_note_key("check", teacher))
        )

    def write_check(self, teacher: str, check: TeacherCheck) -> None:
        self._write(redis_keys.teacher_note_key("check", teacher), check, CHECK_SECONDS)

    def _read(self, key: str) -> StoredRecord | None:
        with self._lock:
            until, record = self._notes.get(key, (0.0, None))
            return record if self._clock() < until else None

    def _write(self, key: str, record: StoredRecord, seconds: float) -> None:
        with self._lock:
            self._notes[key] = self._clock() + seconds, record


class RedisTeacherNotes:
    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def read_learnt(self, teacher: str) -> LearntParameters:
        found = self._read(redis_keys.teacher_note_key("learnt", teacher), LearntParameters)
        return found or LearntParameters()

    def write_learnt(self, teacher: str, learnt: LearntParameters) -> None:
        self._write(redis_keys.teacher_note_key("learnt", teacher), learnt, LEARNT_SECONDS)

    def read_check(self, teacher: str) -> TeacherCheck | None:
        return self._read(redis_keys.teacher_note_key("check", teacher), TeacherCheck)

    def write_check(self, teacher: str, check: TeacherCheck) -> None:
        self._write(redis_keys.teacher_note_key("check", teacher), check, CHECK_SECONDS)

    def _read(self, key: str, record: type[RecordT]) -> RecordT | None:
        with translate_redis_errors():
            stored = cast("str | None", self._redis.get(key))
        if stored is None:
            return None
        try:
            return parse_stored_record(record, stored, key)
        except UnreadableRecord as error:
            log.warning("a note about a teacher is not read: %s", error)
            return None

    def _write(self, key: str, record: StoredRecord, seconds: float) -> None:
        with translate_redis_errors():
            self._redis.set(key, record.model_dump_json(), px=int(seconds * 1000))
