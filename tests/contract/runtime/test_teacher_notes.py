"""Notes about teachers: what a server was found not to take, and how it was found to be."""

from __future__ import annotations

from qcrd.records.teachers.notes import LearntParameters, TeacherCheck
from qcrd.runtime import redis_keys
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.teacher_notes import (
    CHECK_SECONDS,
    LEARNT_SECONDS,
    MemoryTeacherNotes,
    RedisTeacherNotes,
    TeacherNotes,
)
from qcrd.runtime.settings import RedisSettings

LEARNT = LearntParameters(left_out=("seed", "temperature"), max_choices=4)
AWAY = TeacherCheck(state="away", message="it is away", since=1.0, checked_at=2.0)


def test_what_is_written_of_a_teacher_is_read_of_it_alone(teacher_notes: TeacherNotes) -> None:
    assert teacher_notes.read_learnt("a") == LearntParameters()
    assert teacher_notes.read_check("a") is None
    teacher_notes.write_learnt("a", LEARNT)
    teacher_notes.write_check("a", AWAY)
    assert teacher_notes.read_learnt("a") == LEARNT
    assert teacher_notes.read_check("a") == AWAY
    assert teacher_notes.read_learnt("b") == LearntParameters()
    assert teacher_notes.read_check("b") is None
    mended = AWAY.model_copy(update={"state": "ok"})
    teacher_notes.write_check("a", mended)
    assert teacher_notes.read_check("a") == mended


def test_old_notes_are_gone() -> None:
    now = [0.0]
    notes = MemoryTeacherNotes(lambda: now[0])
    notes.write_learnt("a", LEARNT)
    notes.write_check("a", AWAY)
    now[0] = CHECK_SECONDS + 1
    assert notes.read_check("a") is None
    assert notes.read_learnt("a") == LEARNT
    now[0] = LEARNT_SECONDS + 1
    assert notes.read_learnt("a") == LearntParameters()


def test_in_redis_they_expire_and_another_releases_are_not_read(
    redis_settings: RedisSettings,
) -> None:
    redis = connect_redis(redis_settings)
    notes = RedisTeacherNotes(redis)
    notes.write_learnt("a", LEARNT)
    notes.write_check("a", AWAY)
    assert 0 < redis.ttl(redis_keys.teacher_note_key("learnt", "a")) <= LEARNT_SECONDS
    assert 0 < redis.ttl(redis_keys.teacher_note_key("check", "a")) <= CHECK_SECONDS
    redis.set(redis_keys.teacher_note_key("learnt", "a"), '{"left_out": 7}')
    redis.set(redis_keys.teacher_note_key("check", "a"), "{")
    assert notes.read_learnt("a") == LearntParameters()
    assert notes.read_check("a") is None
