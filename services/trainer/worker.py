"""The trainer's Celery worker. It never touches a GPU: a process or a pod of its own does, per job.

Run by `celery -A services.trainer.worker worker -Q train -c 1 --pool=threads`. Where trainings are
pods, `-c` is how many of them it watches at once.
"""

from __future__ import annotations

from qcrd.records.job import Stage
from qcrd.runtime.jobs.celery_worker import StageWorker
from qcrd.runtime.jobs.stage_context import JobDone, StageContext
from qcrd.runtime.redis.base_model_reports import RedisBaseModelReports
from qcrd.runtime.settings import DiscriminatorAddress, ModelSettings, load_settings
from qcrd.runtime.storage.hub import ModelHub
from services.trainer.base_model_reporting import start_reporting
from services.trainer.execution.adoption import Adopter, start_adopting
from services.trainer.execution.factory import (
    check_executor,
    make_executor,
    name_watcher,
    start_removing_leftovers,
)
from services.trainer.settings import TrainerSettings
from services.trainer.supervision.training_process import supervise_training


def train(stage: StageContext) -> JobDone:
    settings = TrainerSettings()
    executor = make_executor(settings, worker.redis)
    return supervise_training(stage, executor, stall_seconds=settings.stall_seconds)


def start_beside_the_jobs() -> None:
    start_reporting(
        RedisBaseModelReports(worker.redis),
        load_settings(ModelSettings),
        worker.stop_event,
        hub=ModelHub(),
    )
    if load_settings(TrainerSettings).executor != "local":
        start_adopting(
            lambda: Adopter(worker.deps, worker.redis, name_watcher(), train), worker.stop_event
        )
        start_removing_leftovers(worker.redis, worker.deps.jobs, worker.stop_event)


def read_settings() -> tuple[TrainerSettings, DiscriminatorAddress]:
    """What the training process will read: a wrong environment ends the worker, and not a job."""
    settings = TrainerSettings()
    check_executor(settings)
    return settings, DiscriminatorAddress()


worker = StageWorker(
    "trainer", Stage.TRAINING, train, prepare=read_settings, on_ready=start_beside_the_jobs
)
app = worker.app
