"""A job's record that nobody can read, in every list of jobs, while another job runs."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import httpx2
import pytest

from qcrd.records.job import Job, JobStatus, Lease, Stage
from qcrd.runtime import redis_keys
from qcrd.runtime.jobs.queue import CeleryJobQueue, create_celery_app
from qcrd.runtime.jobs.state_machine import index_scores, with_changes
from qcrd.runtime.keys import new_id
from qcrd.runtime.redis.connection import connect_redis
from tests.survival.stack.runs import Calm, Data, begin, check
from tests.survival.stack.system import System, until

POISON = ('{"id": "half of a rec', "{}", "not even JSON \x00", '{"schema_version": "2.0"}')


class Poison:
    """A job first in the lines of both workers, and in the lists of those that they hold."""

    def __init__(self, system: System) -> None:
        self.id = new_id("ftjob")
        self._redis = connect_redis(system.redis_settings)
        self._system = system
        self._indexes: dict[str, float] = {}

    def write(self, like: Job, body: str) -> None:
        """In every sorted set that a job `like` this one can be in, before all others of it."""
        waiting = with_changes(like, status=JobStatus.RUNNING, lease=Lease(), concluded=False)
        for stage in (Stage.ASSEMBLING, Stage.TRAINING):
            queued = with_changes(waiting, stage=stage)
            held = with_changes(queued, lease=Lease(token=1, owner="nobody", until=1.0))
            self._indexes |= index_scores(queued) | index_scores(held)
        with self._redis.pipeline() as pipe:
            pipe.set(redis_keys.job_key(self.id), body)
            for name, score in self._indexes.items():
                pipe.zadd(name, {self.id: score + 1e6})
            pipe.execute()

    def remove(self) -> None:
        with self._redis.pipeline() as pipe:
            pipe.delete(redis_keys.job_key(self.id))
            for name in self._indexes:
                pipe.zrem(name, self.id)
            pipe.execute()
        self._system.events.delete(self.id)
        self._system.jobs.list_unreadable()  # forgets those that are gone

    @property
    def is_unchanged(self) -> bool:
        return all(self._redis.zscore(name, self.id) is not None for name in self._indexes)

    def record(self) -> str | None:
        found = self._redis.get(redis_keys.job_key(self.id))
        return None if found is None else str(found)


@pytest.fixture
def poison(system: System) -> Iterator[Poison]:
    made = Poison(system)
    yield made
    made.remove()


def test_a_record_that_cannot_be_read_changes_nothing(
    poison: Poison, system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    queue = CeleryJobQueue(create_celery_app(system.redis_settings))
    body = rng.choice(POISON)
    run = begin(system, data, rng)
    # Before the trainer takes the job, so that it is there when a line is read.
    time.sleep(rng.uniform(0.0, 0.8 * calm.begins[Stage.TRAINING]))
    poison.write(system.job(run.id), body)
    for stage in (Stage.ASSEMBLING, Stage.TRAINING):
        queue.send(stage, poison.id)
    print(f"{body!r} is there after {run.age():.2f} s, in stage {system.job(run.id).stage}")
    check(run, calm)
    assert system.job(run.id).attempt == 0
    assert poison.record() == body
    assert poison.is_unchanged, "a release that can read it goes on with it"
    ready = until(lambda: named(system, poison.id), system)
    assert ready["status"] == "ok", "nobody else is harmed"
    [told] = until(lambda: system.all_events(poison.id), system)
    assert told.level == "error"


def named(system: System, job_id: str) -> dict[str, object] | None:
    """What `/ready` says once it names the record."""
    answer = httpx2.get(f"{system.url()}/ready", timeout=30).raise_for_status().json()
    found: dict[str, object] = answer
    return found if job_id in str(found.get("unreadable", {})) else None
