"""What becomes of TrainJobs while no worker watches them: those that wait for a place in Kueue's
queue, and those whose job is over."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest

from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.reaper import LeaseWatch, list_held
from qcrd.runtime.jobs.stage_context import JobDone, StageContext
from services.trainer.execution.adoption import Adopter
from services.trainer.execution.cluster_api import ClusterApi
from services.trainer.execution.leftovers import LeftoverRemover
from services.trainer.supervision.training_process import supervise_training
from tests.contract.trainer.cluster_site import DONE, ID, NAME, Site, in_thread, wait_until

KEPT_SECONDS = 3600.0


def read_lease_seconds(site: Site) -> float:
    """What is left of the job's lease."""
    return site.jobs.get(ID).lease.until - time.time()


def test_a_place_in_the_queue_is_kept_while_all_workers_are_rolled_over(site: Site) -> None:
    """The lease of a training that waits outlasts minutes without a worker; once it trains it is
    as long as any, as it renews it itself."""
    stopping = threading.Event()
    first = in_thread(site.work, deps=replace(site.deps, is_stopping=stopping.is_set), queue="gpus")
    wait_until(lambda: read_lease_seconds(site) > 10 * site.deps.ttl)
    stopping.set()
    first.join(60)
    held = site.jobs.get(ID)
    heartbeat, ttl = site.deps.heartbeat, site.deps.ttl
    clock = [0.0]
    watch = LeaseWatch(heartbeat=heartbeat, ttl=ttl, clock=lambda: clock[0])
    while clock[0] < 10 * ttl:
        now = site.jobs.now() + clock[0]
        assert not watch.look(list_held(site.jobs), now), "it was taken for abandoned"
        clock[0] += heartbeat
    assert site.jobs.get(ID).lease == held.lease

    def work(stage: StageContext) -> JobDone:
        return supervise_training(stage, site.executor(queue="gpus"))

    adopter = Adopter(site.deps, site.redis, "next", work)
    adopter.adopt()
    (second,) = adopter.adopt()
    wait_until(lambda: read_lease_seconds(site) > 10 * site.deps.ttl)
    site.cluster.on_start = lambda _: site.state().mark_progress()
    site.cluster.unsuspend(NAME)
    wait_until(lambda: read_lease_seconds(site) <= site.deps.ttl)
    site.state().write_outcome(DONE)
    second.join(60)
    after = site.jobs.get(ID)
    assert (after.status, after.attempt, after.lease.token) == (JobStatus.SUCCEEDED, 0, 1)
    assert site.cluster.requests.count("create trainjobs") == 1


def make_remover(site: Site) -> LeftoverRemover:
    return LeftoverRemover(
        ClusterApi(site.api, "qcrd"), site.redis, site.jobs, kept_seconds=KEPT_SECONDS
    )


def is_going(site: Site) -> bool:
    return "finalizers" in site.cluster.train_jobs[NAME]["metadata"]


def start_and_leave(site: Site) -> None:
    """A TrainJob whose worker is gone."""
    executor = site.executor()
    executor.leave(executor.start(site.claimed()))


def test_the_train_job_of_a_cancelled_job_goes_without_its_worker(site: Site) -> None:
    start_and_leave(site)
    remover = make_remover(site)
    assert remover.remove(time.time()) == [], "its job is to go on"
    transition_job(site.jobs, ID, JobStatus.CANCELLED)
    assert site.state().take_watch("another", 60)
    assert remover.remove(time.time()) == [], "it is its worker's"
    site.state().leave_watch()
    assert remover.remove(time.time()) == [NAME]
    assert is_going(site)
    assert remover.remove(time.time()) == [], "it is going"


def test_the_suspended_train_job_of_a_paused_job_stays_until_that_is_cancelled(
    site: Site,
) -> None:
    start_and_leave(site)
    ClusterApi(site.api, "qcrd").suspend(NAME)
    transition_job(site.jobs, ID, JobStatus.PAUSED)
    remover = make_remover(site)
    assert remover.remove(time.time() + 10 * KEPT_SECONDS) == []
    transition_job(site.jobs, ID, JobStatus.CANCELLED)
    assert remover.remove(time.time()) == [NAME]


def test_a_failed_job_s_train_job_is_kept_for_its_logs_and_then_goes(site: Site) -> None:
    start_and_leave(site)
    transition_job(site.jobs, ID, JobStatus.FAILED)
    ended_at = site.jobs.get(ID).finished_at
    assert ended_at is not None
    remover = make_remover(site)
    assert remover.remove(ended_at + KEPT_SECONDS - 1) == []
    assert remover.remove(ended_at + KEPT_SECONDS + 1) == [NAME]
    assert is_going(site)


@pytest.mark.parametrize("ours", [True, False])
def test_of_jobs_that_are_not_there_only_those_that_were_ours_lose_theirs(
    site: Site, ours: bool
) -> None:
    """Another installation may have its TrainJobs in the namespace."""
    start_and_leave(site)
    if not ours:
        site.redis.delete(f"qcrd:training:{ID}:1:started")
    site.jobs.delete(ID)
    assert make_remover(site).remove(time.time()) == ([NAME] if ours else [])
    assert is_going(site) is ours


def test_what_says_that_a_train_job_is_ours_lasts_as_long_as_its_job(site: Site) -> None:
    start_and_leave(site)
    site.redis.delete(f"qcrd:training:{ID}:1:started")  # its week is over
    remover = make_remover(site)
    assert remover.remove(time.time()) == []
    deleted: Job = site.jobs.get(ID)
    site.jobs.delete(deleted.id)
    assert remover.remove(time.time()) == [NAME]
