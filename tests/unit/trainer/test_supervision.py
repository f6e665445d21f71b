"""A worker that stops a training, with an executor that says what the test tells it to."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.commands import transition_job
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.storage.store import MemoryStore
from services.trainer.execution.executor import ExecutionStatus, StopReason
from services.trainer.supervision.process_outcome import Outcome, make_memory_outcome
from services.trainer.supervision.training_process import supervise_training
from tests.integration.site import spec

ID = "ftjob-" + "b" * 24


class ScriptedExecutor:
    """A training that goes on until it is stopped, and then tells `told`."""

    outlives_worker = False

    def __init__(self, told: Outcome | None) -> None:
        self.told = told
        self.polled = threading.Event()
        self.stopped_because: list[StopReason] = []

    def start(self, job: Job) -> Any:
        return job.id

    def poll(self, execution: Any) -> ExecutionStatus:
        self.polled.set()
        return ExecutionStatus("running", object())

    def cancel(self, execution: Any, reason: StopReason) -> None:
        self.stopped_because.append(reason)

    def leave(self, execution: Any) -> None:
        raise AssertionError("it does not outlive its worker")

    def outcome(self, execution: Any) -> Outcome | None:
        return self.told


@pytest.mark.parametrize(
    "told", [None, Outcome(kind="stopped"), make_memory_outcome("the kernel killed it")]
)
@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_paused_job_stays_paused_whatever_killed_its_training(
    told: Outcome | None, micro_batches: int
) -> None:
    """Processes killed for memory are counted of the whole machine, others' among them."""
    jobs = MemoryJobStore()
    deps = WorkerDeps(
        jobs, MemoryEventLog(), MemoryStore(), MemoryJobQueue(), heartbeat=0.02, ttl=30.0
    )
    jobs.create(
        Job(
            id=ID,
            spec=spec(),
            status=JobStatus.QUEUED,
            stage=Stage.TRAINING,
            created_at=0.0,
            micro_batches=micro_batches,
        )
    )
    executor = ScriptedExecutor(told)
    worker = threading.Thread(
        target=run_stage,
        args=(deps, ID, Stage.TRAINING, lambda stage: supervise_training(stage, executor)),
    )
    worker.start()
    assert executor.polled.wait(60)
    transition_job(jobs, ID, JobStatus.PAUSED)
    worker.join(60)
    job = jobs.get(ID)
    assert (job.status, job.failure, job.micro_batches) == (JobStatus.PAUSED, None, micro_batches)
    assert executor.stopped_because == ["paused"]
