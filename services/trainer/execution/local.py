"""Trainings as processes of this machine, in a process group of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qcrd.records.job import Job
from services.trainer.execution.executor import ExecutionStatus, StopReason
from services.trainer.supervision import process_outcome
from services.trainer.supervision.memory import count_oom_kills
from services.trainer.supervision.process_outcome import Outcome

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class LocalTraining:
    process: subprocess.Popen[bytes]
    folder: tempfile.TemporaryDirectory[str]
    earlier_memory_kills: int

    @property
    def outcome_path(self) -> Path:
        return Path(self.folder.name) / "outcome.json"

    @property
    def progress_path(self) -> Path:
        return Path(self.folder.name) / "progress"


class LocalExecutor:
    """`services.trainer.run` as one process, or as many ranks by the launcher as
    `choose_processes` says of a job.

    One that is stopped gets SIGTERM, and SIGKILL `grace_seconds` seconds later.
    """

    outlives_worker = False

    def __init__(
        self,
        *,
        grace_seconds: float,
        choose_processes: Callable[[Job], int] = lambda _: 1,
        count_memory_kills: Callable[[], int] = count_oom_kills,
    ) -> None:
        self._grace_seconds = grace_seconds
        self._choose_processes = choose_processes
        self._count_memory_kills = count_memory_kills

    def start(self, job: Job) -> LocalTraining:
        folder = tempfile.TemporaryDirectory(prefix="qcrd-train-")
        processes = self._choose_processes(job)
        module = "services.trainer.run" if processes == 1 else "services.trainer.launch"
        ranks = [] if processes == 1 else ["--processes", str(processes)]
        arguments = ["--outcome", f"{folder.name}/outcome.json"]
        arguments += ["--progress", f"{folder.name}/progress", "--parent", str(os.getpid())]
        memory_kills = self._count_memory_kills()
        process = subprocess.Popen(
            [sys.executable, "-m", module, job.id, str(job.lease.token), *ranks, *arguments],
            start_new_session=True,
        )
        return LocalTraining(process, folder, memory_kills)

    def poll(self, execution: LocalTraining) -> ExecutionStatus:
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = execution.process.wait(POLL_SECONDS)
            reason = f"the training process ended with status {status}"
            return ExecutionStatus("ended", reason=reason)
        path = execution.progress_path
        return ExecutionStatus("running", path.stat().st_mtime_ns if path.exists() else None)

    def cancel(self, execution: LocalTraining, reason: StopReason) -> None:
        if reason != "hung":
            execution.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                execution.process.wait(self._grace_seconds)
        _kill_group(execution.process)

    def leave(self, execution: LocalTraining) -> None:
        """It ends with its worker."""

    def outcome(self, execution: LocalTraining) -> Outcome | None:
        _kill_group(execution.process)
        with execution.folder:
            told = process_outcome.read_outcome(execution.outcome_path)
        # Where one of several ranks was killed, the others tell that they have lost it.
        is_sudden = told is None or told.kind == "crashed"
        if is_sudden and self._count_memory_kills() > execution.earlier_memory_kills:
            return process_outcome.make_memory_outcome(
                "the kernel killed the training process because memory ran out"
            )
        return told


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the rest of the group, children of the training included."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
