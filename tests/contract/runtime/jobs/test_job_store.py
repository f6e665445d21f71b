"""Job stores: what `jobs` builds on, and the lease rules on top of a real compare-and-set."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

from qcrd.errors import Conflict, LeaseLost, NotFound, Transient
from qcrd.records.job import Job, JobFailure, JobStatus, Progress, Stage
from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.specs.spec import JobSpec, Priority
from qcrd.runtime.jobs.commands import claim_job, renew_lease, transition_job, update_job
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.reaper import reap_jobs
from qcrd.runtime.jobs.state_machine import release_lease, revoke_lease, with_changes
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.keys import new_id
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings
from tests.conftest import free_ports
from tests.fakes.lossy_proxy import LossyProxy


def a_job(created_at: float = 1000.0, status: JobStatus = JobStatus.QUEUED) -> Job:
    spec = JobSpec.model_validate(
        {
            "model": "tiny",
            "training_file": new_id("file"),
            "method": {"type": "qcrd", "qcrd": {"rationales": {"import": new_id("file")}}},
        }
    )
    return Job(id=new_id("ftjob"), spec=spec, status=status, created_at=created_at)


def release(jobs: JobStore, job_id: str) -> None:
    """As the pipeline does with a job that waits."""
    jobs.update(job_id, lambda job: release_lease(job, time.time()))


@pytest.fixture
def job(jobs: JobStore) -> Job:
    job = a_job()
    jobs.create(job)
    return job


def test_what_was_created_is_read_back_whole(jobs: JobStore, job: Job) -> None:
    assert jobs.get(job.id) == job
    assert isinstance(jobs.get(job.id).spec.settings.rationales, RationaleSpec)


def test_an_id_is_taken_once(jobs: JobStore, job: Job) -> None:
    with pytest.raises(Conflict):
        jobs.create(with_changes(job, created_at=1.0))
    assert jobs.get(job.id) == job


def test_a_job_that_is_not_there_is_not_found(jobs: JobStore) -> None:
    missing = new_id("ftjob")
    with pytest.raises(NotFound):
        jobs.get(missing)
    with pytest.raises(NotFound):
        jobs.update(missing, lambda job: job)
    jobs.delete(missing)


def test_what_a_change_raises_comes_out_and_nothing_is_written(jobs: JobStore, job: Job) -> None:
    def refuse(job: Job) -> Job:
        raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        jobs.update(job.id, refuse)
    assert jobs.get(job.id) == job


def test_no_update_is_lost_between_four_writers(jobs: JobStore, job: Job) -> None:
    def add(_: int) -> None:
        jobs.update(job.id, lambda job: with_changes(job, backoffs=job.backoffs + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(40)))
    assert jobs.get(job.id).backoffs == 40


def test_lists_are_newest_first_and_paged_without_gaps(jobs: JobStore) -> None:
    made = [a_job(created_at=at) for at in (5.0, 3.0, 3.0, 3.0, 9.0, 1.0)]
    for job in made:
        jobs.create(job)
    wanted = sorted(made, key=lambda job: (job.created_at, job.id), reverse=True)

    first = jobs.list(None, 2)
    second = jobs.list(first[-1].id, 3)
    third = jobs.list(second[-1].id, 100)
    assert first + second + third == wanted
    assert jobs.list(wanted[-1].id, 10) == []
    with pytest.raises(NotFound) as raised:
        jobs.list(new_id("ftjob"), 10)
    assert raised.value.param == "after"


def test_the_active_list_leaves_out_what_is_concluded(jobs: JobStore) -> None:
    over, active, paused = a_job(1.0), a_job(2.0), a_job(3.0)
    for job in (over, active, paused):
        jobs.create(job)
    transition_job(jobs, over.id, JobStatus.CANCELLED)
    transition_job(jobs, paused.id, JobStatus.PAUSED)
    jobs.create(with_changes(a_job(4.0, status=JobStatus.FAILED), concluded=True))
    assert [job.id for job in jobs.iter_active()] == [paused.id, active.id, over.id]
    jobs.update(over.id, lambda job: with_changes(job, concluded=True))
    assert [job.id for job in jobs.iter_active()] == [paused.id, active.id]
    assert len(jobs.list(None, 10)) == 4


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_the_active_list_is_read_to_its_end_whatever_ends_meanwhile(
    kind: str, redis_settings: RedisSettings
) -> None:
    """Of five, taken two at a time, the second one is concluded and the third deleted on the way:
    the rest are all there, and nobody is told of a place that is lost."""
    redis = connect_redis(redis_settings)
    jobs: JobStore = MemoryJobStore() if kind == "memory" else RedisJobStore(redis, page_size=2)
    made = [a_job(created_at=float(at)) for at in (5, 4, 3, 2, 1)]
    for job in made:
        jobs.create(job)
    found = jobs.iter_active()
    seen = [next(found).id, next(found).id]
    jobs.update(made[1].id, lambda job: with_changes(job, concluded=True))
    jobs.delete(made[2].id)
    late = a_job(created_at=0.5)
    jobs.create(late)
    seen += [job.id for job in found]
    assert seen == [made[0].id, made[1].id, made[3].id, made[4].id]
    left = [job.id for job in jobs.iter_active()]
    assert left == [made[0].id, made[3].id, made[4].id, late.id]


def test_a_deleted_job_is_in_no_list(jobs: JobStore, job: Job) -> None:
    jobs.delete(job.id)
    assert jobs.list(None, 10) == list(jobs.iter_active()) == []
    with pytest.raises(NotFound):
        jobs.get(job.id)


def test_of_many_claims_at_once_one_succeeds(jobs: JobStore, job: Job) -> None:
    def try_it(number: int) -> Job | None:
        return claim_job(jobs, job.id, f"worker-{number}", stage=Stage.ASSEMBLING, now=0.0)

    with ThreadPoolExecutor(8) as pool:
        won = [claimed for claimed in pool.map(try_it, range(8)) if claimed is not None]
    assert len(won) == 1
    assert (won[0].status, won[0].stage, won[0].attempt) == (JobStatus.RUNNING, Stage.ASSEMBLING, 0)
    assert jobs.get(job.id) == won[0]


def test_a_store_has_the_clock_that_its_jobs_are_judged_by(jobs: JobStore, job: Job) -> None:
    """Here that of the machine: the server runs beside this test."""
    before = time.time()
    first, second = jobs.now(), jobs.now()
    assert before - 0.01 <= first <= second <= time.time() + 0.01
    ended = transition_job(jobs, job.id, JobStatus.CANCELLED)
    assert ended.finished_at is not None
    assert second <= ended.finished_at <= jobs.now()


def test_a_clock_out_of_reach_is_waited_for() -> None:
    [port] = free_ports(1)
    settings = RedisSettings(url=f"redis://127.0.0.1:{port}/0")
    away = RedisJobStore(connect_redis(settings, retry_seconds=0.0))
    with pytest.raises(Transient):
        away.now()


def test_a_revoked_lease_goes_to_the_next_and_the_old_token_is_refused(
    jobs: JobStore, job: Job
) -> None:
    """By no clock alone: at 85 s the lease is long past its end, and nobody has looked whether its
    worker lives."""
    first = claim_job(jobs, job.id, "one", stage=Stage.ASSEMBLING, now=0.0, ttl=45.0)
    assert first is not None
    assert claim_job(jobs, job.id, "two", stage=Stage.ASSEMBLING, now=85.0) is None
    jobs.update(job.id, revoke_lease)
    renew_lease(jobs, job.id, first.lease.token, 40.0, 45.0)
    assert claim_job(jobs, job.id, "two", stage=Stage.ASSEMBLING, now=41.0) is None

    jobs.update(job.id, revoke_lease)
    second = claim_job(jobs, job.id, "two", stage=Stage.ASSEMBLING, now=85.0)
    assert second is not None
    assert second.lease.token > first.lease.token
    assert second.attempt == 1
    for stale in (
        lambda token: renew_lease(jobs, job.id, token, 86.0),
        lambda token: update_job(jobs, job.id, token, progress=Progress(percent=1.0)),
        lambda token: transition_job(jobs, job.id, JobStatus.SUCCEEDED, token=token),
    ):
        with pytest.raises(LeaseLost):
            stale(first.lease.token)
    assert jobs.get(job.id) == second


def test_the_third_silent_worker_is_the_last(jobs: JobStore, job: Job) -> None:
    """Claims at 0, 50 and 100 s run; the one at 150 s finds three silent predecessors."""
    claims = []
    for now in (0.0, 50.0, 100.0, 150.0):
        claims.append(claim_job(jobs, job.id, "worker", stage=Stage.ASSEMBLING, now=now))
        if now < 150.0:
            jobs.update(job.id, revoke_lease)
    assert [(job.status, job.attempt) for job in claims if job] == [
        (JobStatus.RUNNING, 0),
        (JobStatus.RUNNING, 1),
        (JobStatus.RUNNING, 2),
        (JobStatus.FAILED, 3),
    ]
    failed = jobs.get(job.id)
    assert failed.failure is not None
    assert failed.failure.code == "attempts_exhausted"
    assert failed.finished_at == 150.0
    assert claim_job(jobs, job.id, "worker", stage=Stage.ASSEMBLING, now=200.0) is None


def test_a_released_job_is_claimed_again_without_counting(jobs: JobStore, job: Job) -> None:
    first = claim_job(jobs, job.id, "one", stage=Stage.ASSEMBLING, now=0.0)
    assert first is not None
    release(jobs, job.id)
    with pytest.raises(LeaseLost):
        renew_lease(jobs, job.id, first.lease.token, 1.0)
    second = claim_job(jobs, job.id, "two", stage=Stage.ASSEMBLING, now=1000.0)
    assert second is not None
    assert second.attempt == 0
    assert second.lease.token > first.lease.token


def test_a_message_of_another_task_claims_nothing(jobs: JobStore, job: Job) -> None:
    assert claim_job(jobs, job.id, "one", stage=Stage.TRAINING, now=0.0) is None
    jobs.update(job.id, lambda job: with_changes(job, stage=Stage.EVALUATING))
    assert claim_job(jobs, job.id, "one", stage=Stage.ASSEMBLING, now=0.0) is None
    claimed = claim_job(jobs, job.id, "one", stage=Stage.TRAINING, now=0.0)
    assert claimed is not None
    assert claimed.stage is Stage.TRAINING


def test_a_cancel_takes_the_job_out_of_its_workers_hands(jobs: JobStore, job: Job) -> None:
    held = claim_job(jobs, job.id, "one", stage=Stage.ASSEMBLING, now=0.0)
    assert held is not None
    cancelled = transition_job(jobs, job.id, JobStatus.CANCELLED)
    assert cancelled.finished_at is not None
    with pytest.raises(LeaseLost):
        update_job(jobs, job.id, held.lease.token, progress=Progress(percent=50.0))
    with pytest.raises(Conflict):
        transition_job(jobs, job.id, JobStatus.FAILED, failure=JobFailure(message="no", code="no"))
    assert jobs.get(job.id) == cancelled


def test_a_paused_job_is_still_its_workers_until_released(jobs: JobStore, job: Job) -> None:
    held = claim_job(jobs, job.id, "one", stage=Stage.ASSEMBLING, now=0.0)
    assert held is not None
    transition_job(jobs, job.id, JobStatus.PAUSED)
    update_job(jobs, job.id, held.lease.token, progress=Progress(percent=50.0))
    transition_job(jobs, job.id, JobStatus.QUEUED)
    assert claim_job(jobs, job.id, "two", stage=Stage.ASSEMBLING, now=1.0) is None
    release(jobs, job.id)
    assert claim_job(jobs, job.id, "two", stage=Stage.ASSEMBLING, now=1.0) is not None


def ranked(created_at: float, priority: Priority, **changes: object) -> Job:
    job = a_job(created_at)
    return with_changes(job, spec=job.spec.model_copy(update={"priority": priority}), **changes)


def test_the_line_is_by_priority_and_then_by_age(jobs: JobStore) -> None:
    late, first, low = (
        ranked(3.0, Priority.NORMAL),
        ranked(2.0, Priority.NORMAL),
        ranked(1.0, Priority.LOW),
    )
    high, paused = ranked(4.0, Priority.HIGH), ranked(0.5, Priority.HIGH)
    for job in (late, first, low, high, paused):
        jobs.create(job)
    transition_job(jobs, paused.id, JobStatus.PAUSED)
    wanted = [high.id, first.id, late.id, low.id]
    assert [job.id for job in jobs.list_waiting("assemble", 10)] == wanted
    assert [job.id for job in jobs.list_waiting("assemble", 2, start=1)] == wanted[1:3]
    assert [jobs.queue_position("assemble", job_id) for job_id in wanted] == [0, 1, 2, 3]
    assert jobs.queue_position("assemble", paused.id) is None
    assert jobs.list_waiting("train", 10) == []
    assert (jobs.queue_length("assemble"), jobs.queue_length("train")) == (4, 0)


def test_a_job_is_in_line_while_nobody_holds_it_and_for_its_own_task(
    jobs: JobStore, job: Job
) -> None:
    claimed = claim_job(jobs, job.id, "one", stage=Stage.ASSEMBLING, now=0.0)
    assert claimed is not None
    assert jobs.queue_position("assemble", job.id) is None
    assert (jobs.count_held("assemble"), jobs.count_held("train")) == (1, 0)
    update_job(jobs, job.id, claimed.lease.token, stage=Stage.TRAINING)
    assert (jobs.count_held("assemble"), jobs.count_held("train")) == (0, 1)
    release(jobs, job.id)
    assert jobs.count_held("train") == 0
    assert (jobs.queue_position("assemble", job.id), jobs.queue_position("train", job.id)) == (
        None,
        0,
    )


def test_the_census_counts_each_job_once(jobs: JobStore) -> None:
    made = [a_job(float(at)) for at in range(4)]
    for job in made:
        jobs.create(job)
    transition_job(jobs, made[0].id, JobStatus.CANCELLED)
    transition_job(jobs, made[1].id, JobStatus.PAUSED)
    jobs.delete(made[2].id)
    counted = {status: count for status, count in jobs.count_by_status().items() if count}
    assert counted == {JobStatus.CANCELLED: 1, JobStatus.PAUSED: 1, JobStatus.QUEUED: 1}


def test_an_owner_runs_no_more_jobs_than_the_key_allows_however_many_workers_try(
    jobs: JobStore,
) -> None:
    mine = [with_changes(a_job(float(at)), owner="ci", running_limit=2) for at in range(6)]
    other = with_changes(a_job(9.0), owner="other", running_limit=2)
    for job in (*mine, other):
        jobs.create(job)

    def try_it(job: Job) -> Job | None:
        try:
            return claim_job(jobs, job.id, f"for-{job.id}", stage=Stage.ASSEMBLING, now=0.0)
        except Conflict as error:
            if error.code != "running_limit":
                raise
            return None

    with ThreadPoolExecutor(6) as pool:
        taken = [job for job in pool.map(try_it, (*mine, other)) if job]
    assert sorted(job.owner for job in taken) == ["ci", "ci", "other"]
    running = next(job for job in taken if job.owner == "ci")
    transition_job(jobs, running.id, JobStatus.CANCELLED)
    left = [job for job in mine if jobs.get(job.id).status is JobStatus.QUEUED]
    assert try_it(left[0]) is not None
    assert try_it(left[1]) is None


def test_a_change_whose_answer_was_lost_is_no_conflict_with_itself(
    redis_settings: RedisSettings,
) -> None:
    """Every write is obeyed, and its answer lost with the connection."""
    there, job = urlsplit(redis_settings.url), a_job(created_at=time.time())
    RedisJobStore(connect_redis(redis_settings)).create(job)
    with LossyProxy(there.port or 0, losing=b"EXEC", every=1) as proxy:
        jobs = RedisJobStore(
            connect_redis(RedisSettings(url=f"redis://127.0.0.1:{proxy.port}{there.path}"))
        )
        [reaped] = reap_jobs(jobs, MemoryJobQueue(), job.created_at + 301)
        assert reaped.job_id == job.id
        held = claim_job(jobs, job.id, "one", stage=Stage.ASSEMBLING, now=0.0)
        assert held is not None
        for status in (JobStatus.PAUSED, JobStatus.QUEUED):
            assert transition_job(jobs, job.id, status).status is status
        release(jobs, job.id)
        assert transition_job(jobs, job.id, JobStatus.CANCELLED).status is JobStatus.CANCELLED
        added = jobs.update(job.id, lambda job: with_changes(job, backoffs=job.backoffs + 1))
        assert added.backoffs == 1
        assert proxy.lost == 7
