"""Which jobs the reaper sends again, by clocks that are set by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.errors import Transient
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.commands import claim_job, renew_lease, transition_job, update_job
from qcrd.runtime.jobs.dispatch import claim_next_job
from qcrd.runtime.jobs.finalize import finalize_pending
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.reaper import (
    HeldLease,
    LeaseWatch,
    ReapedJob,
    has_expired,
    list_held,
    make_held_lease,
    reap_jobs,
)
from qcrd.runtime.jobs.stage_context import StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.state_machine import is_lease_revoked, with_changes
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.store import MemoryStore

ID = "ftjob-" + "a" * 24
HEARTBEAT, TTL = 10.0, 45.0
HOUR = 3600.0
SPEC = JobSpec(model="tiny", training_file="file-" + "0" * 24)


@dataclass
class World:
    """The store's clock, `now`, and the reaper's own: both go on together, and the first is set."""

    now: float = 1.8e9
    uptime: float = 100.0
    queue: MemoryJobQueue = field(default_factory=MemoryJobQueue)

    def __post_init__(self) -> None:
        self.jobs = MemoryJobStore(lambda: self.now)
        self.watch = self.another_watch()
        self.deps = WorkerDeps(
            self.jobs, MemoryEventLog(), MemoryStore(), self.queue, heartbeat=HEARTBEAT, ttl=TTL
        )
        self.add(ID)

    def another_watch(self) -> LeaseWatch:
        return LeaseWatch(heartbeat=HEARTBEAT, ttl=TTL, clock=lambda: self.uptime)

    def add(self, job_id: str) -> None:
        job = Job(id=job_id, spec=SPEC, status=JobStatus.QUEUED, created_at=self.now)
        self.jobs.create(job)

    @property
    def job(self) -> Job:
        return self.jobs.get(ID)

    def claim(self, job_id: str = ID) -> Job | None:
        return claim_job(self.jobs, job_id, "one", stage=Stage.ASSEMBLING, now=self.now, ttl=TTL)

    def renew(self) -> None:
        renew_lease(self.jobs, ID, self.job.lease.token, self.now, TTL)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.uptime += seconds

    def reap(self) -> list[ReapedJob]:
        expired = self.watch.look(list_held(self.jobs), self.now)
        return reap_jobs(self.jobs, self.queue, self.now, expired=expired)

    def reaped_ids(self) -> list[str]:
        return [reaped.job_id for reaped in self.reap()]

    def watch_for(self, seconds: int, *, renewing: bool) -> list[tuple[int, str]]:
        """What is sent again, and after how many seconds, with a pass of the reaper each second and
        a renewal at each heartbeat."""
        found = []
        for second in range(1, seconds + 1):
            self.wait(1.0)
            if renewing and second % HEARTBEAT == 0:
                self.renew()
            found += [(second, job_id) for job_id in self.reaped_ids()]
        return found


@pytest.fixture
def world() -> World:
    return World()


# --- leases ----------------------------------------------------------------------------------


def test_a_living_worker_keeps_its_job_and_a_dead_one_loses_it_when_its_lease_is_over(
    world: World,
) -> None:
    world.claim()
    assert world.watch_for(200, renewing=True) == []
    assert world.watch_for(200, renewing=False) == [(45, ID)]
    assert is_lease_revoked(world.job)


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_is_set_takes_no_job_from_a_living_worker(world: World, jump: float) -> None:
    world.claim()
    world.watch_for(25, renewing=True)
    world.now += jump
    assert world.claim() is None, "a second delivery of its message finds it held"
    assert world.watch_for(200, renewing=True) == []
    assert world.job.attempt == 0


@pytest.mark.parametrize(("jump", "after"), [(HOUR, 25), (-HOUR, 45)])
def test_a_clock_that_is_set_keeps_no_job_of_a_dead_worker(
    world: World, jump: float, after: int
) -> None:
    """Renewed at 20 s and first seen so then. Set forward at 20 s, the clock says at once that the
    lease is over, and 25 s of silence say so too: two and a half heartbeats. Set back, it does not
    say so for an hour, and a silence as long as the lease does."""
    world.claim()
    world.watch_for(20, renewing=True)
    world.now += jump
    assert world.watch_for(200, renewing=False) == [(after, ID)]


def test_a_reaper_that_was_held_still_leaves_the_workers_time_to_renew(world: World) -> None:
    """Both clocks have gone on by an hour at its next look, as after the sleep of a machine."""
    world.claim()
    world.watch_for(29, renewing=True)  # nine seconds after the last renewal
    world.wait(HOUR)
    assert world.reaped_ids() == []
    world.renew()
    assert world.watch_for(100, renewing=True) == []


def test_a_reaper_that_has_just_started_waits_for_a_silence_of_its_own(world: World) -> None:
    world.claim()
    world.wait(HOUR)
    world.watch = world.another_watch()
    assert world.watch_for(100, renewing=False) == [(26, ID)]


@pytest.mark.parametrize(("jump", "after"), [(0.0, 60), (HOUR, 60), (-HOUR, 90)])
def test_seldom_looks_see_the_silence_too(world: World, jump: float, after: int) -> None:
    """A look in 15 s counts for a heartbeat of 10 s. The first sees the lease; 25 s of silence take
    three more, 45 s five more."""
    world.claim()
    world.now += jump
    passes = []
    for number in range(1, 8):
        world.wait(15.0)
        if world.reaped_ids():
            passes.append(15 * number)
    assert passes == [after]


def test_of_two_workers_the_silent_one_loses_its_job(world: World) -> None:
    other = "ftjob-" + "b" * 24
    world.add(other)
    world.claim()
    world.claim(other)
    assert world.watch_for(100, renewing=True) == [(45, other)]


def test_a_lease_renewed_between_the_look_and_the_write_is_kept(world: World) -> None:
    world.claim()
    world.watch_for(44, renewing=False)
    world.wait(2.0)
    expired = world.watch.look(list_held(world.jobs), world.now)
    assert expired == {make_held_lease(world.job)}
    world.renew()
    assert reap_jobs(world.jobs, world.queue, world.now, expired=expired) == []
    assert not is_lease_revoked(world.job)


@pytest.mark.parametrize(
    ("unchanged", "now", "has_ended"), [(46, 100, False), (46, 1000, True), (900, 100, True)]
)
def test_a_longer_lease_outlives_a_longer_silence(
    unchanged: float, now: float, has_ended: bool
) -> None:
    """Of a training that waits for its place, whose worker is away: given at 100, until 1,000."""
    lease = HeldLease(ID, 1, until=1000, seconds=900)
    assert has_expired(lease, unchanged, now, heartbeat=HEARTBEAT, ttl=TTL) is has_ended


def test_a_worker_that_renews_a_revoked_lease_before_another_one_claims_has_it_again(
    world: World,
) -> None:
    world.claim()
    world.watch_for(50, renewing=False)
    world.renew()
    assert world.claim() is None
    assert world.watch_for(100, renewing=True) == []


@given(
    unchanged=st.floats(0.0, 1e6),
    until=st.floats(1e9, 2e9),
    now=st.floats(1e9, 2e9),
)
def test_an_expired_lease_was_silent_for_longer_than_a_living_worker_is(
    unchanged: float, until: float, now: float
) -> None:
    """And by no clock is a silence as long as the lease taken for life."""
    expired = has_expired(HeldLease(ID, 1, until), unchanged, now, heartbeat=HEARTBEAT, ttl=TTL)
    assert not (expired and unchanged < 2 * HEARTBEAT)
    assert expired or unchanged < TTL


def test_an_expired_lease_is_sent_at_once_and_only_once(world: World) -> None:
    held = world.claim()
    assert held is not None
    update_job(world.jobs, ID, held.lease.token, stage=Stage.TRAINING)
    world.watch_for(44, renewing=False)
    assert world.queue.drain() == []
    world.watch_for(60, renewing=False)
    assert world.queue.drain() == [(Stage.TRAINING, ID)]


def test_a_job_that_lost_its_worker_is_sent_though_others_fill_the_queue(world: World) -> None:
    """In no index of waiting jobs, it is revived by its own message alone."""
    waiting = "ftjob-" + "b" * 24
    world.add(waiting)
    for _ in range(3):
        world.queue.send(Stage.ASSEMBLING, waiting)
    world.claim()
    assert world.watch_for(60, renewing=False) == [(45, ID)]


# --- messages --------------------------------------------------------------------------------


def test_the_reaper_names_the_reason_of_each_job(world: World) -> None:
    world.wait(301)
    assert world.reap() == [ReapedJob(ID, "no worker claimed it within 301 s of its message")]
    world.queue.drain()
    world.claim()
    world.watch_for(44, renewing=False)
    world.wait(1)
    assert world.reap() == [ReapedJob(ID, "its worker one has not renewed its lease")]


def test_a_message_lost_on_the_way_is_sent_again_once(world: World) -> None:
    world.wait(299)
    assert world.reaped_ids() == []
    world.wait(2)
    assert world.reaped_ids() == [ID]
    world.wait(1)
    assert world.reaped_ids() == []
    assert world.queue.drain() == [(Stage.ASSEMBLING, ID)]
    world.wait(300)
    assert world.reaped_ids() == [ID]
    assert world.queue.drain() == [(Stage.ASSEMBLING, ID)]


def test_waiting_jobs_never_have_more_messages_than_there_are_jobs(world: World) -> None:
    """A night with the workers away. What a worker then takes finds its job, the rest nothing."""
    other = "ftjob-" + "b" * 24
    world.add(other)
    for _ in range(11):
        world.wait(HOUR)
        world.reap()
    assert sorted(world.queue.drain()) == [(Stage.ASSEMBLING, ID), (Stage.ASSEMBLING, other)]


def test_a_job_that_backs_off_is_left_to_its_countdown(world: World) -> None:
    def away(context: StageContext) -> None:
        raise Transient("away", retry_after=1000.0)

    run_stage(world.deps, ID, Stage.ASSEMBLING, away)  # type: ignore[arg-type]
    world.queue.drain()
    world.wait(1200)
    assert world.reaped_ids() == []
    world.wait(101)
    assert world.reaped_ids() == [ID]


@pytest.mark.parametrize("status", [JobStatus.PAUSED, JobStatus.CANCELLED])
def test_what_is_not_to_run_is_not_sent(world: World, status: JobStatus) -> None:
    transition_job(world.jobs, ID, status)
    world.wait(10_000)
    assert world.reaped_ids() == []


def test_all_pages_are_looked_at(world: World) -> None:
    for number in range(250):
        world.add(f"ftjob-{number:024x}")
    world.wait(1000)
    assert len(world.reaped_ids()) == 251


# --- a clock that is set back ----------------------------------------------------------------


def test_a_job_whose_message_was_lost_before_the_clock_went_back_is_sent_once(
    world: World,
) -> None:
    world.now -= HOUR
    assert world.reaped_ids() == [ID]
    world.queue.drain()
    for _ in range(3):
        world.wait(10)
        assert world.reaped_ids() == []


def test_a_job_of_before_the_clock_went_back_is_in_line(world: World) -> None:
    """A message for another job, which is over, is used for it."""
    other = "ftjob-" + "b" * 24
    world.add(other)
    world.jobs.update(ID, lambda job: with_changes(job, sent_at=world.now))
    transition_job(world.jobs, other, JobStatus.CANCELLED)
    world.now -= HOUR
    claimed = claim_next_job(world.deps, other, Stage.ASSEMBLING)
    assert claimed is not None
    assert claimed.id == ID


def test_a_job_that_ended_before_the_clock_went_back_is_finalized(world: World) -> None:
    transition_job(world.jobs, ID, JobStatus.CANCELLED)
    assert finalize_pending(world.deps, world.now) == []
    world.now -= HOUR
    assert finalize_pending(world.deps, world.now) == [ID]


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_is_set_adds_no_more_than_a_lease_to_a_jobs_time(
    world: World, jump: float
) -> None:
    """Ten seconds of work, and an hour that was none."""
    world.claim()
    world.wait(10)
    world.renew()
    world.now += jump
    world.renew()
    assert 10.0 <= world.job.seconds["assembling"] <= 10.0 + TTL
