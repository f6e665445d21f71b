"""Supervises the training of a job wherever it runs: starts it, watches it, and tells its end."""

from __future__ import annotations

import logging
import math
from typing import Any

from qcrd.errors import Interrupted, Invalid, NotFound, Transient, UnreadableRecord
from qcrd.records.job import JobStatus
from qcrd.runtime.jobs.stage_context import JobDone, StageContext, WorkGoesOn
from services.trainer.execution.executor import ExecutionStatus, Executor, StopReason
from services.trainer.supervision import process_outcome
from services.trainer.supervision.memory import OUT_OF_MEMORY, RETRY_PARTS, make_advice
from services.trainer.supervision.progress_mark import ProgressWatch

log = logging.getLogger(__name__)

WAITING_LEASE_SECONDS = 900.0
"""Of the lease while a training that outlives its worker has not begun: it does not renew it then,
so that a rollout of the workers, with its pulls of images of several GB, has to be over before."""


def supervise_training(
    stage: StageContext, executor: Executor, *, stall_seconds: float = math.inf
) -> JobDone:
    """Have `executor` train the job, and stop that when the job is no longer wanted.

    `ProcessDied` when it makes no progress for `stall_seconds`. When memory runs out the job is
    tried once more with its steps in parts, and remembers that. `WorkGoesOn` when this worker ends
    and the training does not.
    """
    execution = executor.start(stage.job)
    try:
        end = _wait_for_end(stage, executor, execution, stall_seconds)
    except WorkGoesOn:
        executor.leave(execution)
        raise
    except BaseException:
        executor.cancel(execution, "hung")
        executor.outcome(execution)
        raise
    if end is None:
        executor.cancel(execution, _find_stop_reason(stage))
    training_outcome = executor.outcome(execution)
    lacks_word = training_outcome is None or training_outcome.kind == "out_of_memory"
    if end is None and lacks_word:  # it was killed by us, whatever else was killed meanwhile
        raise Interrupted(f"job {stage.job.id} was told to stop, and its training with it")
    if training_outcome is None:
        raise process_outcome.ProcessDied(end.reason if end else "")
    if training_outcome.kind == "out_of_memory":
        raise _make_memory_error(stage, training_outcome)
    if training_outcome.report is None:
        raise process_outcome.make_error(training_outcome)
    return JobDone(training_outcome.report, {"model": training_outcome.model})


def _wait_for_end(
    stage: StageContext, executor: Executor, execution: Any, stall_seconds: float
) -> ExecutionStatus | None:
    """The last status; None when the training has to be stopped. `ProcessDied` while it runs and
    makes no progress."""
    watch = ProgressWatch()
    told, has_begun = "", False
    while True:
        status = executor.poll(execution)
        if status.state == "ended":
            return status
        if not stage.is_wanted():
            return None
        has_begun |= status.state == "running"
        if executor.outlives_worker:
            stage.set_lease_seconds(None if has_begun else WAITING_LEASE_SECONDS)
        if stage.is_worker_stopping():
            if executor.outlives_worker:
                raise WorkGoesOn(f"job {stage.job.id} trains on without this worker")
            return None
        if status.state == "waiting":
            if status.reason != told:
                _tell_waiting(stage, status.reason)
                told = status.reason
        elif (idle_seconds := watch.seconds_without_progress(status.progress)) > stall_seconds:
            raise process_outcome.ProcessDied(
                f"the training process made no progress for {idle_seconds:.0f} s and was killed: "
                "it hangs, or it was stopped (QCRD_STALL_SECONDS says how long to wait)"
            )


def _tell_waiting(stage: StageContext, reason: str) -> None:
    """Write why the training does not begin; it clears that itself with its first progress."""
    try:
        stage.update_job(waiting=reason)
    except Transient as error:
        log.warning("cannot write that the training waits: %s", error)


def _find_stop_reason(stage: StageContext) -> StopReason:
    try:
        paused = stage.jobs.get(stage.job.id).status is JobStatus.PAUSED
    except (NotFound, Transient, UnreadableRecord):
        return "unwanted"
    return "paused" if paused else "unwanted"


def _make_memory_error(stage: StageContext, outcome: process_outcome.Outcome) -> Exception:
    """The first time the job is to be tried again with smaller parts; then it fails with advice."""
    reason = outcome.failure.message if outcome.failure else "memory ran out"
    spec = stage.job.spec
    hyper = spec.settings.hyperparameters
    parts = min(RETRY_PARTS, hyper.batch_size)
    if stage.job.micro_batches < parts:
        stage.update_job(micro_batches=parts)
        return Transient(
            f"{reason}; trying once more, with each step in {parts} parts", code=OUT_OF_MEMORY
        )
    advice = make_advice(spec.method, hyper)
    return Invalid(
        f"{reason}, with each step in {parts} parts as well: {advice}", code=OUT_OF_MEMORY
    )
