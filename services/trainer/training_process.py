"""Starts the training process of a job, watches it, and takes what it leaves behind."""

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

ALONE = "services.trainer.run"
LOOK_SECONDS = 0.5


def supervise(stage: StageContext, *, grace: float, processes: int = 1) -> JobDone:
    """Run `services.trainer.run` for the job in a process group of its own, or `processes` of it.

    When the job is no longer wanted it gets SIGTERM, and SIGKILL `grace` seconds later.
    """
    with tempfile.TemporaryDirectory(prefix="qcrd-train-") as folder:
        result = Path(folder) / "outcome.json"
        command = [
            sys.executable,
            "-m",
            *(["services.trainer.launch", str(processes)] if processes > 1 else [ALONE]),
            stage.job.id,
            str(stage.token),
            "--outcome",
            str(result),
            "--parent",
            str(os.getpid()),
        ]
        process = subprocess.Popen(command, start_new_session=True)
        try:
            stopped = _watch(stage, process, grace)
        finally:
            _kill_group(process)
        found = process_outcome.read(result)
    if found is None and stopped:
        raise Interrupted(f"job {stage.job.id} was told to stop, and its process with it")
    if found is None:
        raise process_outcome.ProcessDied(
            f"the training process ended with status {process.returncode}"
        )
    if found.report is None:
        raise process_outcome.raised(found)
    return JobDone(found.report, {"model": found.model})


def _watch(stage: StageContext, process: subprocess.Popen[bytes], grace: float) -> bool:
    """Until the process has ended; True when it was asked to, however that ended."""
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK_SECONDS)
            return False
        if stage.should_stop():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace)
            return True


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Whatever of the group is left, children that training started included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
