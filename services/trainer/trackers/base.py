"""What every tracker is told, and what is raised when it cannot be."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from qcrd.records.base import Record
from qcrd.records.specs.integrations import IntegrationSpec

Metrics = Mapping[str, float]


class TrackedRun(Record):
    """A job as trackers see it. A resumed job has the same `job_id`, and so the same run there.
    `parameters` are the spec's fields by dotted path; `folder` is where TensorBoard's files go."""

    job_id: str
    integration: IntegrationSpec
    parameters: dict[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return self.integration.run.name or self.job_id


class TrackerFailed(Exception):
    """The tracker cannot be used; the message says what to do."""


class Tracker(Protocol):
    """One run in a tracker. Every method may fail with any exception, and may hang."""

    def log(self, metrics: Metrics, step: int) -> None:
        """Numbers by name, of optimizer step `step`."""

    def log_summary(self, metrics: Metrics) -> None:
        """The results, once, at the end."""

    def finish(self, *, succeeded: bool) -> str | None:
        """Close the run; where it can be seen, if that is known. A job that did not succeed may
        be resumed later under the same run."""
