"""Where the trainer runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class TrainerSettings(BaseSettings):
    """`grace_seconds`: from SIGTERM to SIGKILL of a training process that is to stop.

    `checkpoint_seconds`: least training between two checkpoints. `sampler`: where negatives are
    sampled; `process` is a process beside the training, on the second GPU where there is one, and
    `auto` is that with two GPUs and `inline`, in the training process, otherwise.
    """

    model_config = SettingsConfigDict(
        env_prefix="QCRD_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    discriminator_url: str = "http://127.0.0.1:8090"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    sampler: Literal["auto", "inline", "process"] = "auto"
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
