"""Laws of the state table and of leases, over everything Hypothesis can think of."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from qcrd.errors import Conflict, LeaseLost
from qcrd.records.job import Job, JobStatus, Lease, Progress, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.commands import claim_job, renew_lease, transition_job, update_job
from qcrd.runtime.jobs.state_machine import (
    MAX_ATTEMPTS,
    STAGE_TASKS,
    TERMINAL,
    TRANSITIONS,
    release_lease,
    revoke_lease,
    transition,
    with_changes,
    with_stage_time,
)
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore

SPEC = JobSpec(model="tiny", training_file="file-" + "0" * 24)


def a_job(status: JobStatus = JobStatus.QUEUED) -> Job:
    return Job(id="ftjob-" + "0" * 24, spec=SPEC, status=status, created_at=0.0)


def test_every_status_and_every_stage_is_in_its_table() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    assert set(STAGE_TASKS) == set(Stage)
    assert {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED} == TERMINAL


def test_every_status_can_be_reached_and_every_job_can_end() -> None:
    reached, frontier = {JobStatus.VALIDATING}, {JobStatus.VALIDATING}
    while frontier:
        frontier = {after for status in frontier for after in TRANSITIONS[status]} - reached
        reached |= frontier
    assert reached == set(JobStatus)
    for status in set(JobStatus) - TERMINAL:
        assert {JobStatus.CANCELLED, JobStatus.FAILED} <= TRANSITIONS[status]


@given(start=st.sampled_from(JobStatus), path=st.lists(st.sampled_from(JobStatus), max_size=8))
def test_a_path_of_moves_goes_exactly_as_far_as_the_table(
    start: JobStatus, path: list[JobStatus]
) -> None:
    jobs = MemoryJobStore()
    job = a_job(start)
    jobs.create(job)
    here = start
    for to in path:
        if to in TRANSITIONS[here]:
            here = transition_job(jobs, job.id, to).status
            assert here is to
        else:
            with pytest.raises(Conflict):
                transition_job(jobs, job.id, to)
        assert jobs.get(job.id).status is here
        assert (jobs.get(job.id).finished_at is not None) == (here in TERMINAL and here != start)


@given(to=st.sampled_from(sorted(TERMINAL)), now=st.floats(1.0, 1e9))
def test_a_job_that_is_over_is_held_by_nobody(to: JobStatus, now: float) -> None:
    lease = Lease(token=7, owner="one", until=1e10, counted=1.0)
    running = with_changes(
        a_job(JobStatus.RUNNING), stage=Stage.TRAINING, lease=lease, waiting="teacher", backoffs=3
    )
    over = transition(running, to, now, {})
    assert over.lease == Lease(token=7)
    assert (over.waiting, over.backoffs, over.finished_at) == (None, 0, now)
    assert over.seconds == {"training": pytest.approx(now - 1.0)}


def test_time_is_counted_once_and_into_the_stage_it_was_spent_in() -> None:
    """Held from 10 s: 5 s of training, then 3 s of evaluating; a clock set back adds nothing."""
    job = with_changes(
        a_job(JobStatus.RUNNING),
        stage=Stage.TRAINING,
        lease=Lease(token=1, owner="one", until=60.0, counted=10.0),
    )
    job = with_stage_time(with_stage_time(job, 12.0), 15.0)
    job = with_changes(job, stage=Stage.EVALUATING)
    job = with_stage_time(with_stage_time(job, 18.0), 17.0)
    assert job.seconds == {"training": 5.0, "evaluating": 3.0}


def test_changes_are_validated() -> None:
    for wrong in ({"attempt": "many"}, {"stage": "cooking"}):
        with pytest.raises(ValueError, match="validation error"):
            with_changes(a_job(), **wrong)
    with pytest.raises(TypeError, match="a job has no progres"):
        with_changes(a_job(), progres=Progress())
    with pytest.raises(TypeError):
        update_job(MemoryJobStore(), "ftjob-1", 1, status=JobStatus.SUCCEEDED)


class Workers(RuleBasedStateMachine):
    """Workers that claim, beat, write, give back and lose leases while a clock runs and is set.

    Law: what a worker writes lands if and only if it is the last one to have claimed the job and
    has not given it back; tokens only grow; attempts count silent workers and nothing else.
    """

    @initialize()
    def start(self) -> None:
        self.jobs = MemoryJobStore()
        self.job = a_job()
        self.jobs.create(self.job)
        self.now = 1.8e9
        self.tokens = [0]
        self.holder: int | None = None
        self.revoked = False
        self.silent = 0

    @rule(seconds=st.floats(-3600.0, 3600.0))
    def wait(self, seconds: float) -> None:
        """Or the clock is set."""
        self.now += seconds

    @rule(stage=st.sampled_from([Stage.ASSEMBLING, Stage.TRAINING]))
    def claim(self, stage: Stage) -> None:
        if self.over():
            assert (
                claim_job(self.jobs, self.job.id, "w", stage=stage, now=self.now, ttl=45.0) is None
            )
            return
        lapsed = self.revoked
        got = claim_job(self.jobs, self.job.id, "w", stage=stage, now=self.now, ttl=45.0)
        if stage is Stage.TRAINING or (self.holder is not None and not lapsed):
            assert got is None
            return
        assert got is not None
        self.silent += lapsed
        self.revoked = False
        assert got.attempt == self.silent
        if self.silent >= MAX_ATTEMPTS:
            assert got.status is JobStatus.FAILED
            self.holder = None
            return
        assert got.lease.token > max(self.tokens)
        self.tokens.append(got.lease.token)
        self.holder = got.lease.token

    @precondition(lambda self: self.holder is not None)
    @rule()
    def reap(self) -> None:
        self.jobs.update(self.job.id, revoke_lease)
        self.revoked = True

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens))
        progress = Progress(percent=data.draw(st.floats(0, 100)))
        before = self.jobs.get(self.job.id)
        if token == self.holder:
            assert update_job(self.jobs, self.job.id, token, progress=progress).progress == progress
        else:
            with pytest.raises(LeaseLost):
                update_job(self.jobs, self.job.id, token, progress=progress)
            assert self.jobs.get(self.job.id) == before

    @rule(data=st.data())
    def beat(self, data: st.DataObject) -> None:
        token = data.draw(st.sampled_from(self.tokens))
        with suppress(LeaseLost):
            renew_lease(self.jobs, self.job.id, token, self.now, 45.0)
            assert token == self.holder
            self.revoked = False

    @precondition(lambda self: self.holder is not None)
    @rule()
    def give_back(self) -> None:
        self.jobs.update(self.job.id, lambda job: release_lease(job, self.now))
        self.holder, self.revoked = None, False

    def over(self) -> bool:
        return self.jobs.get(self.job.id).status in TERMINAL

    @invariant()
    def the_record_agrees(self) -> None:
        lease = self.jobs.get(self.job.id).lease
        assert bool(lease.owner) == (self.holder is not None)
        assert self.holder is None or lease.token == self.holder


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=60, stateful_step_count=25)
