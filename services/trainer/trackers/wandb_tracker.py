"""Weights & Biases; WANDB_MODE=offline keeps its files under WANDB_DIR for `wandb sync`."""

from __future__ import annotations

from typing import Any

from services.trainer.trackers.base import Metrics, TrackedRun


class WandbTracker:
    def __init__(self, run: TrackedRun) -> None:
        import wandb

        given = run.integration.run
        self._run: Any = wandb.init(
            project=given.project,
            entity=given.entity,
            name=run.name,
            id=run.job_id,
            resume="allow",
            tags=given.tags,
            config=run.parameters,
        )

    def log(self, metrics: Metrics, step: int) -> None:
        # Its own steps only grow; a method's begin anew.
        self._run.log({**metrics, "step": step})

    def log_summary(self, metrics: Metrics) -> None:
        self._run.summary.update(dict(metrics))

    def finish(self, *, succeeded: bool) -> str | None:
        url: str | None = self._run.url
        self._run.finish(exit_code=0 if succeeded else 1)
        return url
