"""The trainer's worker as a process that is killed while a TrainJob of its trains on."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from kubernetes.client import ApiClient

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import CeleryJobQueue, create_celery_app
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings
from services.trainer.execution.train_job import make_train_job, name_train_job
from services.trainer.execution.training_state import TrainingState
from services.trainer.settings import KubeflowSettings
from tests.conftest import free_ports
from tests.contract.trainer.cluster_site import DONE, wait_until
from tests.fakes.kubernetes import FakeCluster
from tests.integration.site import spec


def write_kubeconfig(path: Path, url: str) -> None:
    context = {"cluster": "fake", "user": "fake"}
    path.write_text(
        yaml.safe_dump(
            {
                "current-context": "fake",
                "clusters": [{"name": "fake", "cluster": {"server": url}}],
                "users": [{"name": "fake", "user": {"token": "x"}}],
                "contexts": [{"name": "fake", "context": context}],
            }
        )
    )


@contextmanager
def worker(environment: dict[str, str], name: str) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["-Q", "train", "-c", "1", "--pool=threads", "-n", f"{name}@test"]
    command = [sys.executable, "-m", "celery", "-A", "services.trainer.worker", "worker"]
    process = subprocess.Popen([*command, *arguments], env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def make_job(job_id: str, status: JobStatus) -> Job:
    now = time.time()
    return Job(id=job_id, spec=spec(), status=status, stage=Stage.TRAINING, created_at=now)


def leave_cancelled_job(jobs: RedisJobStore, cluster: FakeCluster) -> str:
    """The name of the TrainJob of a job that was cancelled while no worker was there."""
    job = make_job(keys.new_id("ftjob"), JobStatus.CANCELLED)
    jobs.create(job)
    made = make_train_job(job, KubeflowSettings(), processes=1)
    cluster.create("qcrd", made, strict=True)
    return name_train_job(job)


def test_the_next_worker_takes_up_what_a_killed_one_had(
    cluster: FakeCluster, api: ApiClient, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    """It costs no attempt, and the TrainJob is the same."""
    write_kubeconfig(tmp_path / "kubeconfig", api.configuration.host)
    environment = {
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "QCRD_EXECUTOR": "kubeflow",
        "QCRD_KUBEFLOW_NAMESPACE": "qcrd",
        "QCRD_REDIS_URL": redis_settings.url,
        "QCRD_S3_ENDPOINT": f"127.0.0.1:{free_ports(1)[0]}",
        "QCRD_MODELS_DIR": str(tmp_path),
        "QCRD_LEASE_SECONDS": "600",
        "HF_HUB_OFFLINE": "1",
    }
    redis = connect_redis(redis_settings)
    jobs, job_id = RedisJobStore(redis), keys.new_id("ftjob")
    state = TrainingState(redis, job_id, token=1)
    cluster.on_start = lambda _: state.mark_progress()
    jobs.create(make_job(job_id, JobStatus.QUEUED))
    CeleryJobQueue(create_celery_app(redis_settings)).send(Stage.TRAINING, job_id)
    with worker(environment, "first"):
        wait_until(lambda: f"{job_id}-1" in cluster.train_jobs)
    assert state.is_watched()
    state.leave_watch()  # as when the time has run out that it had watched for
    looked = cluster.requests.count("get trainjobs")
    leftover = leave_cancelled_job(jobs, cluster)
    with worker(environment, "second"):
        wait_until(lambda: cluster.requests.count("get trainjobs") > looked)
        assert state.is_watched()
        state.write_outcome(DONE)
        wait_until(lambda: jobs.get(job_id).status is JobStatus.SUCCEEDED)
        wait_until(lambda: "finalizers" in cluster.train_jobs[leftover]["metadata"])
    ended = jobs.get(job_id)
    assert (ended.attempt, ended.lease.token, ended.model) == (0, 1, "model-1")
    assert list(cluster.train_jobs) == [f"{job_id}-1", leftover]
    assert cluster.requests.count("create trainjobs") == 1, "the second worker started nothing"


def test_a_worker_that_knows_no_cluster_says_so_and_ends(
    redis_settings: RedisSettings,
) -> None:
    environment = {"QCRD_EXECUTOR": "kubeflow", "QCRD_REDIS_URL": redis_settings.url}
    command = [sys.executable, "-m", "celery", "-A", "services.trainer.worker", "worker"]
    ended = subprocess.run(
        [*command, "-Q", "train", "--pool=threads", "-c", "1"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode
    assert "invalid environment: QCRD_KUBEFLOW_NAMESPACE" in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr
