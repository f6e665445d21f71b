"""Starts the training process of a job, watches it, and reads its outcome."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from qcrd.errors import Interrupted
from qcrd.runtime.jobs.stage_context import JobDone, StageContext
from services.trainer import process_outcome

SINGLE_PROCESS_MODULE = "services.trainer.run"
POLL_SECONDS = 0.5


def supervise_training(stage: StageContext, *, grace_seconds: float, processes: int = 1) -> JobDone:
    """Run `services.trainer.run` for the job in a process group of its own, or `processes` of it.

    When the job must stop it gets SIGTERM, and SIGKILL `grace_seconds` seconds later.
    """
    with tempfile.TemporaryDirectory(prefix="qcrd-train-") as folder:
        outcome_path = Path(folder) / "outcome.json"
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
            "--parent",
            str(os.getpid()),
        ]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            stopped = _wait_or_terminate(stage, process, grace_seconds)
        finally:
            _kill_process_group(process)
        training_outcome = process_outcome.read_outcome(outcome_path)
    if training_outcome is None and stopped:
        raise Interrupted(f"job {stage.job.id} was asked to stop, and its process has ended")
    if training_outcome is None:
        raise process_outcome.ProcessDied(
            f"the training process ended with status {process.returncode}"
        )
    if training_outcome.report is None:
        raise process_outcome.make_error(training_outcome)
    return JobDone(training_outcome.report, {"model": training_outcome.model})


def _wait_or_terminate(
    stage: StageContext, process: subprocess.Popen[bytes], grace_seconds: float
) -> bool:
    """Wait for the process to end; True when it was asked to, whatever its outcome."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_SECONDS)
            return False
        if stage.should_stop():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
            return True


def _kill_process_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the rest of the group, children of the training included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
