"""What becomes of a job for everything that a stage's work can do. All on in-memory twins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from qcrd.errors import Diverged, Interrupted, Invalid, OverBudget, Transient
from qcrd.records.job import Job, JobStatus, ModelRef, Report, Stage, Usage
from qcrd.records.rationales import RationaleCounts
from qcrd.records.specs.spec import JobSpec, Priority
from qcrd.runtime import keys
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.commands import claim_job, transition_job
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import (
    WAITS_FOR_JOB,
    JobDone,
    NextStage,
    StageContext,
    WorkerDeps,
)
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.state_machine import revoke_lease, with_changes
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage import store
from qcrd.runtime.storage.store import MemoryStore

ID = "ftjob-" + "a" * 24
COUNTS = RationaleCounts(
    **dict.fromkeys(set(RationaleCounts.model_fields) - {"reused"}, 1)  # any will do
)


def a_report(**seconds: float) -> Report:
    return Report(
        job_id=ID,
        status=JobStatus.RUNNING,
        test={},
        rationales=COUNTS,
        usage=Usage(),
        model=ModelRef(id="model-1"),
        seconds=seconds,
        seed=0,
    )


class World:
    """A worker's parts, with the clock of the heartbeats turned up."""

    def __init__(self) -> None:
        self.jobs = MemoryJobStore()
        self.events = MemoryEventLog()
        self.store = MemoryStore()
        self.queue = MemoryJobQueue()
        self.deps = WorkerDeps(
            self.jobs, self.events, self.store, self.queue, owner="test", heartbeat=0.02, ttl=5.0
        )
        spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
        self.jobs.create(Job(id=ID, spec=spec, status=JobStatus.QUEUED, created_at=time.time()))

    @property
    def job(self) -> Job:
        return self.jobs.get(ID)

    def run(
        self, work: Callable[[StageContext], NextStage | JobDone], stage: Stage = Stage.ASSEMBLING
    ) -> Job:
        run_stage(self.deps, ID, stage, work)
        return self.job

    def count(self, name: str) -> float:
        return sum(count.value for count in self.deps.counters.read() if count.name == name)

    def messages(self) -> list[str]:
        return [event.message for event in self.events.read(ID)]


@pytest.fixture
def world() -> World:
    return World()


def die(world: World, now: float = 0.0) -> None:
    """A worker claims the job and falls silent, and the reaper notices."""
    claim_job(world.jobs, ID, "dead", stage=Stage.ASSEMBLING, now=now)
    world.jobs.update(ID, revoke_lease)


def raising(error: Exception) -> Callable[[StageContext], NextStage | JobDone]:
    def work(context: StageContext) -> NextStage | JobDone:
        raise error

    return work


def test_a_stage_that_is_done_sends_the_next_one(world: World) -> None:
    def assemble(context: StageContext) -> NextStage:
        assert context.job.status is JobStatus.RUNNING
        context.report_progress(50.0, step=1, total=2)
        context.emit("half of it", asked=1)
        assert context.job.progress.total_steps == 2
        return NextStage(
            Stage.TRAINING, {"rationale_set": "set-1", "usage": {"teacher_prompt_tokens": 7}}
        )

    job = world.run(assemble)
    assert (job.status, job.stage, job.rationale_set) == (
        JobStatus.RUNNING,
        Stage.TRAINING,
        "set-1",
    )
    assert job.usage.teacher_prompt_tokens == 7
    assert job.progress.percent == 0
    assert (job.lease.owner, job.attempt) == ("", 0)
    assert job.seconds["assembling"] >= 0
    assert world.queue.drain() == [(Stage.TRAINING, ID)]
    assert world.messages() == ["half of it"]


def test_a_job_that_is_done_is_told_and_archived(world: World) -> None:
    world.run(lambda context: NextStage(Stage.TRAINING))
    world.queue.drain()

    def train(context: StageContext) -> JobDone:
        time.sleep(0.05)
        context.enter_stage(Stage.EVALUATING)
        time.sleep(0.02)
        return JobDone(a_report(evaluating=1.5), {"model": "model-1"})

    job = world.run(train, Stage.TRAINING)
    assert (job.status, job.model, job.progress.percent) == (JobStatus.SUCCEEDED, "model-1", 100.0)
    assert job.finished_at is not None
    assert job.report is not None
    assert job.report.status is JobStatus.SUCCEEDED
    assert 0.05 <= job.seconds["training"] < 1
    assert 0.02 <= job.seconds["evaluating"] < 1
    assert job.report.seconds == {**job.seconds, "evaluating": 1.5}
    last = world.events.read(ID)[-1]
    assert last.data == {"status": "succeeded"}
    assert world.queue.drain() == []
    archived = store.read_record(world.store, keys.job_report_key(ID), Report)
    assert archived == job.report
    assert store.read_record(world.store, keys.job_spec_key(ID), JobSpec) == job.spec
    assert list(EventArchive(world.store).iter_events(ID)) == world.events.read(ID)
    assert JobArchive(world.store).find(ID) == job


def test_a_second_delivery_does_nothing(world: World) -> None:
    def assemble(context: StageContext) -> NextStage:
        run_stage(world.deps, ID, Stage.ASSEMBLING, raising(AssertionError("delivered twice")))
        return NextStage(Stage.TRAINING)

    world.run(assemble)
    world.run(raising(AssertionError("delivered late")))
    assert world.job.stage is Stage.TRAINING
    assert world.job.attempt == 0


def test_an_outage_waits_longer_each_time_and_counts_no_attempt(world: World) -> None:
    """Waits of 2, 4, 8, 16, 32 s, then 60 s at most."""
    down = raising(Transient("the teacher does not respond"))
    for wait in (2, 4, 8, 16, 32, 60, 60):
        job = world.run(down)
        assert (job.status, job.attempt, job.lease.owner) == (JobStatus.RUNNING, 0, "")
        assert job.waiting == "the teacher does not respond"
        [(stage, job_id, countdown)] = world.queue.sent
        assert (stage, job_id, countdown) == (Stage.ASSEMBLING, ID, pytest.approx(wait, abs=0.01))
        world.queue.drain()
    assert world.messages() == ["waiting: the teacher does not respond"]

    def back(context: StageContext) -> NextStage:
        assert context.job.waiting is not None
        context.report_progress(1.0)
        assert (context.job.waiting, context.job.backoffs) == (None, 0)
        raise Transient("again", retry_after=7.0)

    world.run(back)
    assert world.queue.sent == [(Stage.ASSEMBLING, ID, pytest.approx(7.0, abs=0.01))]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("no label", param="training_file", code="missing_label"), "missing_label"),
        (Diverged("the loss is not a number"), "diverged"),
    ],
)
def test_an_error_of_the_tree_fails_the_job_at_once(
    world: World, error: Invalid | Diverged, code: str
) -> None:
    job = world.run(raising(error))
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert (job.failure.message, job.failure.code) == (error.message, code)
    assert job.failure.param == error.param
    last = world.events.read(ID)[-1]
    assert (last.level, last.data) == ("error", {"status": "failed"})
    assert error.message in last.message
    assert world.queue.sent == []


def test_a_crash_is_tried_three_times(world: World) -> None:
    for attempt in (1, 2):
        job = world.run(raising(ZeroDivisionError("by zero")))
        assert (job.status, job.attempt, job.lease.owner) == (JobStatus.RUNNING, attempt, "")
        assert world.queue.drain() == [(Stage.ASSEMBLING, ID)]
    job = world.run(raising(ZeroDivisionError("by zero")))
    assert (job.status, job.attempt) == (JobStatus.FAILED, 3)
    assert job.failure is not None
    assert "ZeroDivisionError: by zero" in job.failure.message
    assert world.queue.drain() == []
    assert world.events.read(ID)[-1].data == {"status": "failed"}


def test_the_last_silent_worker_fails_the_job_and_it_is_told(world: World) -> None:
    for now in (0.0, 100.0, 200.0):
        die(world, now)
    job = world.run(raising(AssertionError("must not run")))
    assert job.status is JobStatus.FAILED
    assert world.events.read(ID)[-1].data == {"status": "failed"}


def test_a_job_given_up_at_the_claim_makes_room_for_the_next(world: World) -> None:
    mine = {"owner": "ci", "running_limit": 1}
    world.jobs.update(ID, lambda job: with_changes(job, **mine))
    for now in (0.0, 100.0, 200.0):
        die(world, now)
    second = another(world, "b", **mine)
    assert world.run(raising(AssertionError("must not run"))).status is JobStatus.FAILED
    assert world.queue.drain() == [(Stage.ASSEMBLING, second)]


def test_an_attempt_is_lost_by_a_crash_or_by_silence(world: World) -> None:
    die(world)
    world.run(raising(Transient("away")))
    assert (world.job.attempt, world.count("attempts_lost")) == (1, 1)
    world.run(raising(ZeroDivisionError("by zero")))
    assert (world.job.attempt, world.count("attempts_lost")) == (2, 2)


def until_interrupted(context: StageContext) -> NextStage | JobDone:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        context.raise_if_stopping()
        time.sleep(0.005)
    raise AssertionError("was not interrupted")


@pytest.mark.parametrize("status", [JobStatus.CANCELLED, JobStatus.PAUSED])
def test_a_cancel_or_pause_stops_the_work_and_is_left_as_it_is(
    world: World, status: JobStatus
) -> None:
    threading.Timer(0.1, lambda: transition_job(world.jobs, ID, status)).start()
    job = world.run(until_interrupted)
    assert (job.status, job.lease.owner, job.attempt) == (status, "", 0)
    assert world.queue.sent == []
    assert world.count("lease_losses") == 0


def test_a_cancel_is_noticed_without_a_heartbeat(world: World) -> None:
    world.deps = replace(world.deps, heartbeat=3600.0, ttl=7200.0)
    threading.Timer(0.1, lambda: transition_job(world.jobs, ID, JobStatus.CANCELLED)).start()
    assert world.run(until_interrupted).status is JobStatus.CANCELLED


def test_looking_reads_the_job_once_a_second(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    get = world.jobs.get
    monkeypatch.setattr(world.jobs, "get", lambda job_id: reads.append(job_id) or get(job_id))
    world.deps = replace(world.deps, heartbeat=60.0)

    def work(context: StageContext) -> NextStage:
        before = len(reads)
        assert not any(context.should_stop() for _ in range(1000))
        assert len(reads) - before <= 1
        return NextStage(Stage.TRAINING)

    assert world.run(work).stage is Stage.TRAINING


def test_a_shutdown_gives_the_job_to_another_worker(world: World) -> None:
    world.deps = replace(world.deps, is_stopping=lambda: True)
    job = world.run(until_interrupted)
    assert (job.status, job.lease.owner, job.attempt) == (JobStatus.RUNNING, "", 0)
    assert world.queue.drain() == [(Stage.ASSEMBLING, ID)]


def test_a_job_resumed_while_its_worker_still_stops_is_not_lost(world: World) -> None:
    def work(context: StageContext) -> NextStage:
        transition_job(context.jobs, ID, JobStatus.PAUSED)
        transition_job(context.jobs, ID, JobStatus.QUEUED)
        raise Interrupted("checkpointed")

    job = world.run(work)
    assert (job.status, job.lease.owner) == (JobStatus.QUEUED, "")
    assert world.queue.drain() == [(Stage.ASSEMBLING, ID)]


def test_work_that_ends_just_after_a_pause_still_counts(world: World) -> None:
    def assemble(context: StageContext) -> NextStage:
        transition_job(context.jobs, ID, JobStatus.PAUSED)
        return NextStage(Stage.TRAINING)

    job = world.run(assemble)
    assert (job.status, job.stage) == (JobStatus.PAUSED, Stage.TRAINING)
    assert world.queue.sent == []
    transition_job(world.jobs, ID, JobStatus.QUEUED)

    def train(context: StageContext) -> JobDone:
        transition_job(context.jobs, ID, JobStatus.PAUSED)
        return JobDone(a_report())

    assert world.run(train, Stage.TRAINING).status is JobStatus.SUCCEEDED


def test_a_worker_that_was_silent_too_long_writes_nothing(world: World) -> None:
    world.deps = replace(world.deps, heartbeat=60.0, ttl=0.05)

    def slow(context: StageContext) -> NextStage:
        time.sleep(0.1)
        assert context.should_stop()
        world.jobs.update(ID, revoke_lease)
        other = claim_job(world.jobs, ID, "other", stage=Stage.ASSEMBLING, now=time.time())
        assert other is not None
        return NextStage(Stage.TRAINING)

    job = world.run(slow)
    assert (job.stage, job.attempt) == (Stage.ASSEMBLING, 1)
    assert job.lease.owner == "other"
    assert world.queue.sent == []
    assert world.count("lease_losses") == 1


def test_heartbeats_keep_a_long_stage_and_count_its_time(world: World) -> None:
    counted: list[float] = []

    def long(context: StageContext) -> NextStage:
        first, deadline = world.job.lease.until, time.monotonic() + 60
        while world.job.lease.until <= first:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert not context.should_stop()
        assert claim_job(world.jobs, ID, "other", stage=Stage.ASSEMBLING, now=first) is None
        counted.append(world.job.seconds["assembling"])
        return NextStage(Stage.TRAINING)

    job = world.run(long)
    assert job.stage is Stage.TRAINING
    assert 0 < counted[0] <= job.seconds["assembling"]


class Flaky(MemoryJobStore):
    """Away for its next `down` calls; `deaf`, it obeys the next one and loses the answer."""

    down = 0
    deaf = False

    def _answer(self) -> None:
        if self.down:
            self.down -= 1
            raise Transient("Redis does not respond")

    def update(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        self._answer()
        after = super().update(job_id, change)
        if self.deaf:
            self.deaf = False
            raise Transient("the connection broke")
        return after


def test_redis_away_at_the_claim_and_at_the_end_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    flaky = Flaky()
    flaky.create(world.job)
    world.jobs, world.deps = flaky, replace(world.deps, jobs=flaky, heartbeat=60.0)
    flaky.down = 6

    def work(context: StageContext) -> NextStage:
        flaky.down = 2
        return NextStage(Stage.TRAINING)

    job = world.run(work)
    assert (job.stage, job.attempt) == (Stage.TRAINING, 0)
    assert waits == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 0.5, 1.0]
    assert world.queue.drain() == [(Stage.TRAINING, ID)]


def test_an_outcome_whose_answer_was_lost_is_told_once(world: World) -> None:
    flaky = Flaky()
    flaky.create(with_changes(world.job, stage=Stage.TRAINING))
    world.jobs, world.deps = flaky, replace(world.deps, jobs=flaky, heartbeat=60.0)

    def train(context: StageContext) -> JobDone:
        flaky.deaf = True
        return JobDone(a_report())

    assert world.run(train, Stage.TRAINING).status is JobStatus.SUCCEEDED
    assert [event.data for event in world.events.read(ID)] == [{"status": "succeeded"}]


def test_a_full_store_does_not_undo_a_success(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise Transient("the object store is full")

    world.run(lambda context: NextStage(Stage.TRAINING))
    monkeypatch.setattr(world.store, "put", full)
    assert (
        world.run(lambda context: JobDone(a_report()), Stage.TRAINING).status is JobStatus.SUCCEEDED
    )


def test_a_job_deleted_while_it_runs_is_no_error(world: World) -> None:
    def work(context: StageContext) -> NextStage:
        world.jobs.delete(ID)
        return NextStage(Stage.TRAINING)

    run_stage(world.deps, ID, Stage.ASSEMBLING, work)
    assert world.jobs.list(None, 10) == []
    assert world.queue.sent == []
    assert world.count("lease_losses") == 0


# --- which job a message is used for --------------------------------------------------------


def another(world: World, letter: str, **changes: object) -> str:
    """A job that waits beside the world's own, which is the oldest."""
    job_id = "ftjob-" + letter * 24
    made = Job(id=job_id, spec=world.job.spec, status=JobStatus.QUEUED, created_at=time.time())
    world.jobs.create(with_changes(made, **changes))
    return job_id


def test_a_message_is_used_for_the_job_that_comes_first(world: World) -> None:
    urgent = world.job.spec.model_copy(update={"priority": Priority.HIGH})
    high = another(world, "b", spec=urgent)
    worked: list[str] = []

    def work(context: StageContext) -> NextStage | JobDone:
        worked.append(context.job.id)
        return NextStage(Stage.TRAINING)

    run_stage(world.deps, ID, Stage.ASSEMBLING, work)
    run_stage(world.deps, high, Stage.ASSEMBLING, work)
    run_stage(world.deps, high, Stage.ASSEMBLING, work)
    assert worked == [high, ID]
    refused = [c for c in world.deps.counters.read() if c.name == "deliveries_refused"]
    assert [c.value for c in refused] == [1.0]


def test_a_job_that_waits_out_an_outage_lets_others_pass(world: World) -> None:
    world.run(raising(Transient("the teacher is down", retry_after=60)))
    other = another(world, "b")
    worked: list[str] = []

    def work(context: StageContext) -> NextStage | JobDone:
        worked.append(context.job.id)
        return NextStage(Stage.TRAINING)

    run_stage(world.deps, other, Stage.ASSEMBLING, work)
    assert worked == [other]


def test_an_owner_at_the_limit_is_passed_over_and_sent_for_when_there_is_room(
    world: World,
) -> None:
    mine = {"owner": "ci", "running_limit": 1}
    world.jobs.update(ID, lambda job: with_changes(job, **mine))
    second = another(world, "b", **mine)
    third = another(world, "c", owner="other")
    worked: list[str] = []

    def work(context: StageContext) -> NextStage | JobDone:
        worked.append(context.job.id)
        if context.job.id == ID:
            # While the first runs, messages for the others come in.
            run_stage(world.deps, second, Stage.ASSEMBLING, work)
            run_stage(world.deps, third, Stage.ASSEMBLING, work)
            raise Invalid("enough")
        return NextStage(Stage.TRAINING)

    world.run(work)
    assert worked == [ID, third]
    assert world.jobs.get(second).status is JobStatus.QUEUED
    assert world.queue.drain()[-1] == (Stage.ASSEMBLING, second)


def test_jobs_that_wait_for_one_of_their_owner_leave_it_the_room(world: World) -> None:
    """The limit is 1: the leader pauses, its follower is tried, the leader goes on."""
    mine = {"owner": "ci", "running_limit": 1}
    world.jobs.update(ID, lambda job: with_changes(job, **mine))
    follower = another(world, "b", **mine)
    worked: list[str] = []

    def work(context: StageContext) -> NextStage | JobDone:
        worked.append(context.job.id)
        if context.job.id == follower:
            raise Transient("no set yet", code=WAITS_FOR_JOB, retry_after=5.0)
        if len(worked) == 1:
            raise OverBudget("spent")
        return NextStage(Stage.TRAINING)

    world.run(work)
    assert world.queue.drain() == [(Stage.ASSEMBLING, follower)]
    run_stage(world.deps, follower, Stage.ASSEMBLING, work)
    waits = world.jobs.get(follower)
    assert (waits.status, waits.waiting, waits.attempt) == (JobStatus.QUEUED, "no set yet", 0)
    assert world.queue.sent == [(Stage.ASSEMBLING, follower, pytest.approx(5.0, abs=0.1))]
    transition_job(world.jobs, ID, JobStatus.QUEUED)
    assert world.run(work).stage is Stage.TRAINING
    assert worked == [ID, follower, ID]


def test_who_waits_for_a_job_sends_for_others_but_not_for_those_that_wait_too(
    world: World,
) -> None:
    mine = {"owner": "ci", "running_limit": 1}
    world.jobs.update(ID, lambda job: with_changes(job, **mine))
    beside = another(world, "b", waiting="no set yet", **mine)
    late = another(world, "c", sent_at=time.time() + 60, **mine)
    world.run(raising(Transient("no set yet", code=WAITS_FOR_JOB, retry_after=5.0)))
    assert world.queue.drain() == [(Stage.ASSEMBLING, ID)]
    world.jobs.update(late, lambda job: with_changes(job, sent_at=None))
    world.run(raising(Transient("no set yet", code=WAITS_FOR_JOB, retry_after=5.0)))
    assert world.queue.drain() == [(Stage.ASSEMBLING, beside), (Stage.ASSEMBLING, late)]


def test_a_job_over_its_budget_pauses_with_the_reason_and_sends_nothing(world: World) -> None:
    after = world.run(raising(OverBudget("1,000 teacher tokens are spent")))
    assert (after.status, after.lease.owner) == (JobStatus.PAUSED, "")
    assert after.paused_because == "1,000 teacher tokens are spent"
    assert world.messages() == ["paused: 1,000 teacher tokens are spent"]
    assert world.queue.drain() == []
    resumed = transition_job(world.jobs, ID, JobStatus.QUEUED)
    assert resumed.paused_because is None


def test_progress_tells_how_long_the_rest_will_take(world: World) -> None:
    told: list[float | None] = []

    def work(context: StageContext) -> NextStage | JobDone:
        context.report_progress(0.0)
        told.append(context.job.progress.eta_seconds)
        time.sleep(0.1)
        context.report_progress(50.0)
        told.append(context.job.progress.eta_seconds)
        return NextStage(Stage.TRAINING)

    world.run(work)
    assert told[0] is None
    assert told[1] is not None
    assert told[1] > 0


def test_time_with_gpus_is_counted_until_they_are_given_back(world: World) -> None:
    def work(context: StageContext) -> NextStage | JobDone:
        context.update_job(gpus=2)
        time.sleep(0.1)
        return NextStage(Stage.TRAINING)

    after = world.run(work)
    assert 0 < after.usage.gpu_seconds <= 2 * after.seconds["assembling"]
    assert after.gpus == 0
