"""Settings of the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from qcrd.runtime.settings import EnvironmentSettings


class TrainerSettings(EnvironmentSettings, env_prefix="QCRD_"):
    """`grace_seconds`: from SIGTERM to SIGKILL of a training process that must stop.

    `stall_seconds`: after which a training process that did not come past a step or a batch is
    killed, and the job tried again from its last checkpoint.
    `checkpoint_seconds`: least training between two checkpoints. `sampler`: where negatives are
    sampled; `process` is a process beside the training, on the next GPU where there is one, and
    `auto` is that with a GPU to spare and `inline`, in the training process, otherwise.
    `processes`: that train one student together, each on a GPU of its own where there are any.
    `shards`: processes that a student is cut up among; 1 keeps a whole copy in each, which is
    faster where it fits.
    `tensorboard_dir`: where TensorBoard's files go, for jobs that ask for them. `tracker_seconds`:
    that trackers have to send the rest when a job ends.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    sampler: Literal["auto", "inline", "process"] = "auto"
    processes: Annotated[int, Field(ge=1, le=64)] = 1
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    stall_seconds: Annotated[float, Field(gt=0)] = 1800.0
    tensorboard_dir: Path = Path("tensorboard")
    tracker_seconds: Annotated[float, Field(gt=0)] = 30.0

    @field_validator("shards")
    @classmethod
    def _divides_processes(cls, shards: int, info: ValidationInfo) -> int:
        processes = info.data.get("processes", 1)
        if processes % shards:
            raise ValueError(
                f"QCRD_PROCESSES={processes} cannot be parted into groups of {shards}: "
                "take a divisor of it"
            )
        return shards
