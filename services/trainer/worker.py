"""The trainer's Celery worker. It never touches a GPU: a process of its own does, one per job.

Run by `celery -A services.trainer.worker worker -Q train -c 1 --pool=threads`.
"""

from __future__ import annotations

from qcrd.records.job import Stage
from qcrd.runtime.jobs.celery_worker import StageWorker
from qcrd.runtime.jobs.stage_context import JobDone, StageContext
from qcrd.runtime.redis.base_model_reports import RedisBaseModelReports
from qcrd.runtime.settings import DiscriminatorAddress, ModelSettings, load_settings
from qcrd.runtime.storage.hub import ModelHub
from services.trainer.base_model_reporting import start_reporting
from services.trainer.settings import TrainerSettings
from services.trainer.supervision.training_process import supervise_training


def train(stage: StageContext) -> JobDone:
    settings = TrainerSettings()
    return supervise_training(
        stage,
        grace_seconds=settings.grace_seconds,
        stall_seconds=settings.stall_seconds,
        processes=settings.processes,
    )


def report_base_models() -> None:
    start_reporting(
        RedisBaseModelReports(worker.redis),
        load_settings(ModelSettings),
        worker.stop_event,
        hub=ModelHub(),
    )


def read_settings() -> tuple[TrainerSettings, DiscriminatorAddress]:
    """What the training process will read: a wrong environment ends the worker, and not a job."""
    return TrainerSettings(), DiscriminatorAddress()


worker = StageWorker(
    "trainer", Stage.TRAINING, train, prepare=read_settings, on_ready=report_base_models
)
app = worker.app
