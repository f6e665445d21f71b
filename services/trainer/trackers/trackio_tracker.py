"""Trackio: local SQLite files under TRACKIO_DIR, or a Space by TRACKIO_SPACE_ID."""

from __future__ import annotations

from typing import Any

from services.trainer.trackers.base import Metrics, TrackedRun


class TrackioTracker:
    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._run: Any = trackio.init(
            project=run.integration.run.project,
            name=run.name,
            config=run.parameters,
            resume="allow",
            embed=False,
        )

    def log(self, metrics: Metrics, step: int) -> None:
        self._run.log({**metrics, "optimizer_step": step})

    def log_summary(self, metrics: Metrics) -> None:
        self._run.log(dict(metrics))

    def finish(self, *, succeeded: bool) -> str | None:
        self._run.finish()
        return None
