"""The store refuses everything: `/ready` names it, and jobs wait for the operator."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import NextStage, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import ModelSettings, StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.store import Store
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.settings import ApiSettings, FileSettings, TeacherSettings
from services.discriminator.main import build_app
from services.discriminator.settings import DiscriminatorSettings
from tests.integration.conftest import Serve


@pytest.fixture
def refusing(s3_settings: StoreSettings) -> Store:
    """Its keys were rotated, and the processes have the old ones."""
    return S3Store(s3_settings.model_copy(update={"access_key": "rotated"}))


def test_the_gateway_is_not_ready_and_says_why(refusing: Store, tmp_path: Path) -> None:
    settings = GatewaySettings(
        ApiSettings(), TeacherSettings(), FileSettings(), ModelSettings(models_dir=tmp_path)
    )
    app = create_app(refusing, MemoryJobStore(), MemoryEventLog(), MemoryJobQueue(), settings)
    answer = TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False).get(
        "/ready"
    )
    assert answer.status_code == 503
    assert answer.json()["redis"] == "ok"
    assert "QCRD_S3_ACCESS_KEY" in answer.json()["store"]


def test_the_discriminator_is_not_ready_and_says_why(
    serve: Serve, refusing: Store, tmp_path: Path
) -> None:
    models = ModelSettings(models_dir=tmp_path)
    answer = httpx2.get(serve(build_app(DiscriminatorSettings(), refusing, models)) + "/ready")
    assert answer.status_code == 503
    assert "QCRD_S3_ACCESS_KEY" in answer.text


def test_a_job_waits_for_the_operator_and_then_goes_on(
    refusing: Store, s3_settings: StoreSettings
) -> None:
    jobs, job_id = MemoryJobStore(), "ftjob-" + "a" * 24
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    jobs.create(Job(id=job_id, spec=spec, status=JobStatus.QUEUED, created_at=0.0))

    def write(stage: StageContext) -> NextStage:
        stage.store.put("rationales/a", b"x")
        return NextStage(Stage.TRAINING)

    def run(store: Store) -> Job:
        deps = WorkerDeps(jobs, MemoryEventLog(), store, MemoryJobQueue())
        run_stage(deps, job_id, Stage.ASSEMBLING, write)
        return jobs.get(job_id)

    for _ in range(5):
        job = run(refusing)
        assert (job.status, job.attempt) == (JobStatus.RUNNING, 0)
        assert job.waiting is not None
        assert "QCRD_S3_ACCESS_KEY" in job.waiting
    mended = run(S3Store(s3_settings))
    assert (mended.stage, mended.waiting) == (Stage.TRAINING, None)
