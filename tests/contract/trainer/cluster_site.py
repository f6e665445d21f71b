"""Workers with one job, before a fake API server and the real Redis."""

from __future__ import annotations

import threading
import time
from typing import Any

from kubernetes.client import ApiClient

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.commands import claim_job
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import RedisSettings
from qcrd.runtime.storage.store import MemoryStore
from services.trainer.execution.cluster_api import ClusterApi
from services.trainer.execution.kubeflow import KubeflowExecutor
from services.trainer.execution.training_state import TrainingState
from services.trainer.settings import KubeflowSettings
from services.trainer.supervision.process_outcome import Outcome
from services.trainer.supervision.training_process import supervise_training
from tests.fakes.kubernetes import FakeCluster
from tests.integration.site import spec
from tests.unit.runtime.jobs.test_stage_runner import a_report

ID = "ftjob-" + "a" * 24
NAME = f"{ID}-1"
DONE = Outcome(kind="done", report=a_report(), model="model-1")


class Site:
    """Workers on one job store, and the cluster that they have their trainings in."""

    def __init__(self, cluster: FakeCluster, api: ApiClient, redis_settings: RedisSettings) -> None:
        self.cluster, self.api = cluster, api
        self.redis = connect_redis(redis_settings)
        self.jobs = MemoryJobStore()
        self.deps = WorkerDeps(
            self.jobs, MemoryEventLog(), MemoryStore(), MemoryJobQueue(), heartbeat=0.1, ttl=30.0
        )
        self.jobs.create(
            Job(id=ID, spec=spec(), status=JobStatus.QUEUED, stage=Stage.TRAINING, created_at=0.0)
        )

    def executor(self, **settings: Any) -> KubeflowExecutor:
        return KubeflowExecutor(
            ClusterApi(self.api, "qcrd"),
            self.redis,
            KubeflowSettings(**settings),
            watcher="me",
            poll_seconds=0.05,
        )

    def state(self, token: int = 1) -> TrainingState:
        return TrainingState(self.redis, ID, token)

    def work(self, *, deps: WorkerDeps | None = None, **settings: Any) -> Job:
        executor = self.executor(**settings)
        run_stage(
            deps or self.deps, ID, Stage.TRAINING, lambda stage: supervise_training(stage, executor)
        )
        return self.jobs.get(ID)

    def claimed(self) -> Job:
        job = claim_job(self.jobs, ID, "one", stage=Stage.TRAINING, now=time.time())
        assert job is not None
        return job


def wait_until(happens: Any) -> None:
    until = time.monotonic() + 150
    while not happens():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def in_thread(work: Any, *args: Any, **kwargs: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=args, kwargs=kwargs, daemon=True)
    thread.start()
    return thread
