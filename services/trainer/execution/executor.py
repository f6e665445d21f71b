"""Where a job's training runs: as processes of this machine, or as pods of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

from qcrd.records.job import Job
from services.trainer.supervision.process_outcome import Outcome

StopReason = Literal["unwanted", "paused", "hung"]
"""Why a training is stopped: its job is not to go on, or not now, or it makes no progress, so that
it is not waited for."""


@dataclass(frozen=True)
class ExecutionStatus:
    """What an executor sees of a training.

    `waiting`: it has not begun to train. `progress` changes whenever it comes past a step or a
    batch. `reason`: why it waits, or how it ended.
    """

    state: Literal["waiting", "running", "ended"]
    progress: object = None
    reason: str = ""


class Executor(Protocol):
    """Runs trainings, each under its job's lease. What `start` returns names one to the others."""

    outlives_worker: bool
    """Whether a training goes on when its worker ends. It then renews the lease, and `start` of the
    same job with the same lease takes it up again."""

    def start(self, job: Job) -> Any:
        """`Transient` when nothing can be started now, with the reason."""

    def poll(self, execution: Any) -> ExecutionStatus:
        """How it is, after a moment; at once when it has ended."""

    def cancel(self, execution: Any, reason: StopReason) -> None:
        """Stop it: unless it hangs it has its grace period to save a checkpoint. Returns when
        nothing of it writes any more."""

    def leave(self, execution: Any) -> None:
        """Stop watching a training that goes on without this worker, so that another one takes it
        up at once."""

    def outcome(self, execution: Any) -> Outcome | None:
        """What it told when it ended, None if it could not. Asked once, at the end: what is left of
        the training goes."""
