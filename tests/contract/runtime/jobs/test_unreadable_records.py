"""Jobs of other releases in one store: those of this major version are kept whole, others harm
nobody."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.job import Job, JobStatus
from qcrd.runtime import redis_keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.reaper import alarm_unreadable, reap_jobs
from qcrd.runtime.jobs.state_machine import with_changes
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.settings import RedisSettings
from tests.contract.runtime.jobs.test_job_store import a_job

POISON = [
    {"schema_version": "2.0", "id": "x"},
    {"schema_version": "1.0", "status": "levitating"},
    "no JSON",
]


class Rig:
    def __init__(self, settings: RedisSettings) -> None:
        self.redis = connect_redis(settings)
        self.jobs, self.events = RedisJobStore(self.redis), RedisEventLog(self.redis)

    def raw(self, job_id: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(str(self.redis.get(redis_keys.job_key(job_id))))
        return made

    def write(self, job_id: str, body: object) -> None:
        text = body if isinstance(body, str) else json.dumps(body)
        self.redis.set(redis_keys.job_key(job_id), text)


@pytest.fixture
def rig(redis_settings: RedisSettings) -> Rig:
    return Rig(redis_settings)


def with_new_fields(record: Any) -> Any:
    """`record` as a later minor release would store it: a field more in every object."""
    if isinstance(record, dict):
        made = {name: with_new_fields(value) for name, value in record.items()}
        return {**made, "new_field": {"deep": [1]}}
    return [with_new_fields(one) for one in record] if isinstance(record, list) else record


def test_unknown_fields_are_written_back_unchanged(rig: Rig) -> None:
    job = a_job()
    rig.jobs.create(job)
    record = rig.raw(job.id)
    plain = {name: record.pop(name) for name in ("seconds",)}
    # Names of a user's own, which no release adds to.
    record["spec"].pop("metadata")
    record["spec"]["settings"]["task"].pop("fields")
    stored = {**with_new_fields(record), **plain, "schema_version": "1.7"}
    rig.write(job.id, stored)
    changed = rig.jobs.update(job.id, lambda job: with_changes(job, attempt=2, waiting="a while"))
    assert changed.attempt == 2
    expected = {**stored, "attempt": 2, "waiting": "a while"}
    expected["spec"] = copy.deepcopy(stored["spec"]) | {"metadata": {}}
    expected["spec"]["settings"]["task"]["fields"] = {}
    assert rig.raw(job.id) == expected


def test_a_change_names_a_field_that_a_job_has() -> None:
    with pytest.raises(TypeError, match="a job has no atempt"):
        with_changes(a_job(), atempt=2)


@pytest.mark.parametrize("poison", POISON, ids=["major", "status", "damaged"])
def test_a_record_that_cannot_be_read_harms_no_other(rig: Rig, poison: object) -> None:
    made = [a_job(1000.0 + number) for number in range(5)]
    for job in made:
        rig.jobs.create(job)
    bad = made[2].id
    rig.write(bad, poison)
    others = [job.id for job in reversed(made) if job.id != bad]
    assert [job.id for job in rig.jobs.list(None, 4)] == others
    assert [job.id for job in rig.jobs.list(others[0], 2)] == others[1:3]
    assert {job.id for job in rig.jobs.list_waiting("assemble", 10)} == set(others)
    assert {job.id for job in rig.jobs.iter_active()} == set(others)
    reaped = reap_jobs(rig.jobs, MemoryJobQueue(), made[0].created_at + 10_000)
    assert {one.job_id for one in reaped} == set(others)
    with pytest.raises(UnreadableRecord, match=f"job {bad} cannot be read"):
        rig.jobs.get(bad)
    assert list(rig.jobs.list_unreadable()) == [bad]


def test_an_alarm_is_said_once_and_ends_when_it_can_be_read(rig: Rig) -> None:
    job = a_job()
    rig.jobs.create(job)
    record = rig.raw(job.id)
    rig.write(job.id, {**record, "schema_version": "2.0"})
    assert rig.jobs.list(None, 10) == []
    for _ in range(2):
        assert list(alarm_unreadable(rig.jobs, rig.events)) == [job.id]
    [event] = rig.events.read(job.id)
    assert event.level == "error"
    assert "schema version 2.0, and this release reads 1.x" in event.message
    rig.write(job.id, record)
    assert alarm_unreadable(rig.jobs, rig.events) == {}
    assert rig.jobs.list(None, 10) == [job]
    # It was set aside before and is again: a process notes it anew.
    rig.write(job.id, {**record, "schema_version": "3.0"})
    assert rig.jobs.list(None, 10) == []
    assert list(rig.jobs.list_unreadable()) == [job.id]


def test_a_deleted_one_is_no_longer_named(rig: Rig) -> None:
    rig.jobs.create(job := a_job())
    rig.write(job.id, "no JSON")
    assert rig.jobs.list(None, 10) == []
    rig.redis.delete(redis_keys.job_key(job.id))
    assert rig.jobs.list_unreadable() == {}
    with pytest.raises(NotFound):
        rig.jobs.get(job.id)


def test_events_of_a_later_release_are_passed_on(rig: Rig) -> None:
    stream = redis_keys.events_key("ftjob-1")
    newer = {"message": "m", "level": "critical", "type": "picture", "data": {}, "frame": 7}
    for body in (newer, {"text": "no message"}):
        rig.redis.xadd(stream, {"event": json.dumps(body)})
    rig.events.append("ftjob-1", "ours")
    first, second, third = rig.events.read("ftjob-1")
    assert (first.level, first.type, first.model_extra) == ("critical", "picture", {"frame": 7})
    assert second.message == "an event that this release cannot read"
    assert third.message == "ours"


def test_a_job_before_there_were_versions_is_read_as_1_0(rig: Rig) -> None:
    job = a_job()
    rig.jobs.create(job)
    record = rig.raw(job.id)
    del record["schema_version"]
    rig.write(job.id, record)
    assert rig.jobs.get(job.id) == job
    assert job.status is JobStatus.QUEUED
    assert isinstance(job, Job)
