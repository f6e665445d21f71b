"""Starts the training process of a job, watches it, and reads its outcome."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from qcrd.errors import Interrupted, Invalid, Transient
from qcrd.runtime.jobs.stage_context import JobDone, StageContext
from services.trainer.supervision import process_outcome
from services.trainer.supervision.memory import (
    OUT_OF_MEMORY,
    RETRY_PARTS,
    count_oom_kills,
    make_advice,
)
from services.trainer.supervision.progress_mark import ProgressWatch

SINGLE_PROCESS_MODULE = "services.trainer.run"
POLL_SECONDS = 0.5


def supervise_training(
    stage: StageContext,
    *,
    grace_seconds: float,
    stall_seconds: float = math.inf,
    processes: int = 1,
    count_memory_kills: Callable[[], int] = count_oom_kills,
) -> JobDone:
    """Run `services.trainer.run` for the job in a process group of its own, or `processes` of it.

    When the job is no longer wanted it gets SIGTERM, and SIGKILL `grace_seconds` seconds later.
    `ProcessDied` when it makes no progress for `stall_seconds`. When memory runs out the job is
    tried once more with its steps in parts, and remembers that.
    """
    with tempfile.TemporaryDirectory(prefix="qcrd-train-") as folder:
        outcome_path, progress_path = Path(folder) / "outcome.json", Path(folder) / "progress"
        command = [
            sys.executable,
            "-m",
            *(
                ["services.trainer.launch", str(processes)]
                if processes > 1
                else [SINGLE_PROCESS_MODULE]
            ),
            stage.job.id,
            str(stage.token),
            "--outcome",
            str(outcome_path),
            "--progress",
            str(progress_path),
            "--parent",
            str(os.getpid()),
        ]
        earlier_memory_kills = count_memory_kills()
        process = subprocess.Popen(command, start_new_session=True)
        try:
            watch = ProgressWatch(progress_path)
            stopped = _wait_or_terminate(stage, process, grace_seconds, watch, stall_seconds)
        finally:
            _kill_process_group(process)
        training_outcome = process_outcome.read_outcome(outcome_path)
    if training_outcome is None and stopped:
        raise Interrupted(f"job {stage.job.id} was told to stop, and its process with it")
    if training_outcome is None and count_memory_kills() > earlier_memory_kills:
        training_outcome = process_outcome.make_memory_outcome(
            "the kernel killed the training process because memory ran out"
        )
    if training_outcome is None:
        raise process_outcome.ProcessDied(
            f"the training process ended with status {process.returncode}"
        )
    if training_outcome.kind == "out_of_memory":
        raise _make_memory_error(stage, training_outcome)
    if training_outcome.report is None:
        raise process_outcome.make_error(training_outcome)
    return JobDone(training_outcome.report, {"model": training_outcome.model})


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


def _wait_or_terminate(
    stage: StageContext,
    process: subprocess.Popen[bytes],
    grace_seconds: float,
    watch: ProgressWatch,
    stall_seconds: float,
) -> bool:
    """Until the process has ended; True when it was asked to, however that ended. `ProcessDied`
    while it lives and makes no progress."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            return False
        if stage.should_stop():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
            return True
        if (idle_seconds := watch.seconds_without_progress()) > stall_seconds:
            raise process_outcome.ProcessDied(
                f"the training process made no progress for {idle_seconds:.0f} s and was killed: "
                "it hangs, or it was stopped (QCRD_STALL_SECONDS says how long to wait)"
            )


def _kill_process_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the rest of the group, children of the training included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
