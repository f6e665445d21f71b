"""TensorBoard: event files in a folder per job, `QCRD_TENSORBOARD_DIR`/PROJECT/JOB."""

from __future__ import annotations

from typing import Any

from services.trainer.trackers.base import Metrics, TrackedRun


class TensorboardTracker:
    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.summary import Writer

        self._folder = run.folder / run.integration.run.project / run.job_id
        self._writer: Any = Writer(str(self._folder))

    def log(self, metrics: Metrics, step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_summary(self, metrics: Metrics) -> None:
        self.log(metrics, 0)

    def finish(self, *, succeeded: bool) -> str | None:
        self._writer.close()
        return str(self._folder)
