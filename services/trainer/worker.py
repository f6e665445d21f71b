"""The trainer's Celery worker. It never touches a GPU: a process of its own does, one per job.

Run by `celery -A services.trainer.worker worker -Q train -c 1 --pool=threads`.
"""

from __future__ import annotations

from qcrd.records.job import Stage
from qcrd.runtime.jobs.celery_worker import StageWorker
from qcrd.runtime.jobs.stage_context import JobDone, StageContext
from services.trainer.settings import TrainerSettings
from services.trainer.training_process import supervise_training


def train(stage: StageContext) -> JobDone:
    settings = TrainerSettings()
    return supervise_training(
        stage,
        grace_seconds=settings.grace_seconds,
        stall_seconds=settings.stall_seconds,
        processes=settings.processes,
    )


worker = StageWorker("trainer", Stage.TRAINING, train, prepare=TrainerSettings)
app = worker.app
