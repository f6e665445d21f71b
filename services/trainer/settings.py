"""Settings of the trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from qcrd.runtime.settings import EnvironmentSettings

AUTO = 0
"""`processes` where they are chosen by the job."""


def _read_auto(value: object) -> object:
    if value in (AUTO, str(AUTO)):
        raise ValueError("Input should be at least 1, or `auto`")
    return AUTO if value == "auto" else value


class TrainerSettings(EnvironmentSettings, env_prefix="QCRD_"):
    """`grace_seconds`: from SIGTERM to SIGKILL of a training process that must stop.

    `stall_seconds`: after which a training process that did not come past a step or a batch is
    killed, and the job tried again from its last checkpoint.
    `rank_lost_seconds`: without a sign of life of a rank, after which the others give it up.
    `checkpoint_seconds`: least training between two checkpoints. `sampler`: where negatives are
    sampled; `process` is a process beside the training, on the next GPU where there is one, and
    `auto` is that with a GPU to spare and `inline`, in the training process, otherwise.
    `processes`: that train one student together, each on a GPU of its own where there are any;
    `auto`, for workers that train here, is one for each core that a job has memory for, on a CPU.
    `shards`: processes that a student is cut up among; 1 keeps a whole copy in each, which is
    faster where it fits.
    `tensorboard_dir`: where TensorBoard's files go, for jobs that ask for them. `tracker_seconds`:
    that trackers have to send the rest when a job ends.
    `executor`: where trainings run: as processes beside the worker, or as a Kubeflow TrainJob each.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    executor: Literal["local", "kubeflow"] = "local"
    sampler: Literal["auto", "inline", "process"] = "auto"
    processes: Annotated[int, BeforeValidator(_read_auto), Field(ge=0, le=64)] = 1
    shards: Annotated[int, Field(ge=1, le=64)] = 1
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 30.0
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    stall_seconds: Annotated[float, Field(gt=0)] = 1800.0
    tensorboard_dir: Path = Path("tensorboard")
    tracker_seconds: Annotated[float, Field(gt=0)] = 30.0
    rank_lost_seconds: Annotated[float, Field(gt=2)] = 60.0

    @field_validator("shards")
    @classmethod
    def _divides_processes(cls, shards: int, info: ValidationInfo) -> int:
        processes = info.data.get("processes", 1) or 1
        if processes % shards:
            raise ValueError(
                f"QCRD_PROCESSES={processes} cannot be parted into groups of {shards}: "
                "take a divisor of it"
            )
        return shards

    @property
    def fixed_processes(self) -> int:
        """Where a job does not choose them."""
        return self.processes or 1


class KubeflowSettings(EnvironmentSettings, env_prefix="QCRD_KUBEFLOW_"):
    """The TrainJobs that `QCRD_EXECUTOR=kubeflow` makes.

    `namespace`: of the TrainJobs and of `runtime`, a TrainingRuntime; by default the worker's own.
    `nodes`: pods of one job, with `QCRD_PROCESSES` ranks each. `queue`: a LocalQueue of Kueue's
    that admits them. `deadline_seconds`: after which Kubernetes ends a TrainJob. `kept_seconds`:
    for which a failed job's TrainJob stays, whose pods have its logs. `context`: of the kubeconfig,
    outside a cluster.
    """

    namespace: str | None = None
    runtime: str = "qcrd-torch"
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    queue: str | None = None
    deadline_seconds: Annotated[int, Field(ge=60)] = 7 * 86_400
    kept_seconds: Annotated[float, Field(ge=0)] = 86_400.0
    context: str | None = None


class NodeSettings(EnvironmentSettings, env_prefix="PET_"):
    """A machine's place among those of one job, by the variables of torchrun that Kubeflow
    Trainer's torch policy sets."""

    nnodes: Annotated[int, Field(ge=1)]
    nproc_per_node: Annotated[int, Field(ge=1)] = 1
    node_rank: Annotated[int, Field(ge=0)] = 0
    master_addr: str
    master_port: Annotated[int, Field(ge=1, le=65535)] = 29400
