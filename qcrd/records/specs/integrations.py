"""Experiment trackers that a job is followed in, in the form of OpenAI's `integrations`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from qcrd.records.base import Record

TrackerType = Literal["wandb", "mlflow", "trackio", "tensorboard"]


PROJECT_PATTERN = r"^[\w\- ][\w\-. ]*$"
"""No path: TensorBoard's is a folder's name."""


class TrackerRun(Record):
    """What the job is called there. Where the tracker is, and with whose key, is in the trainer's
    environment."""

    project: Annotated[str, Field(max_length=128, pattern=PROJECT_PATTERN)] = "qcrd"
    """Of Weights & Biases and Trackio; MLflow's experiment; TensorBoard's folder."""
    name: Annotated[str | None, Field(max_length=128)] = None
    """Of the run; None: the job's id."""
    entity: Annotated[str | None, Field(max_length=128)] = None
    """Team or user of Weights & Biases."""
    tags: Annotated[tuple[str, ...], Field(max_length=16)] = ()
    """Of the run."""


class IntegrationSpec(Record):
    """One tracker: `{type: wandb, wandb: {project: …}}`."""

    type: TrackerType
    """Which one; its own fields stand under its name."""
    wandb: TrackerRun | None = None
    """Weights & Biases; its key is the trainer's `WANDB_API_KEY`."""
    mlflow: TrackerRun | None = None
    """MLflow, at the trainer's `MLFLOW_TRACKING_URI`."""
    trackio: TrackerRun | None = None
    """Trackio, in the trainer's `TRACKIO_DIR`, or at a Space."""
    tensorboard: TrackerRun | None = None
    """TensorBoard's files, in the trainer's `QCRD_TENSORBOARD_DIR`."""

    @property
    def run(self) -> TrackerRun:
        """The fields under its own name."""
        found: TrackerRun | None = getattr(self, self.type)
        return found or TrackerRun()

    def dump(self) -> dict[str, Any]:
        """As it was asked for, without the fields of other types."""
        return {"type": self.type, self.type: self.run.model_dump(mode="json")}

    @model_validator(mode="after")
    def check_fields(self) -> Self:
        for name in ("wandb", "mlflow", "trackio", "tensorboard"):
            if name != self.type and getattr(self, name) is not None:
                raise ValueError(f"`{name}` has fields, and `type` is {self.type}")
        return self
