"""What the tests of the trainer start from: real servers around it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.settings import ModelSettings, StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from services.discriminator.main import build_app
from services.discriminator.settings import DiscriminatorSettings
from tests import serving, tiny
from tests.conftest import unused_database
from tests.integration.site import Site, spec


@pytest.fixture(scope="package")
def site(
    redis_url: str, s3_settings: StoreSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One for all tests of the package, since none looks at another's jobs."""
    folder = tmp_path_factory.mktemp("models")
    tiny.save_base(folder / "tiny-bert")
    store, redis_settings = S3Store(s3_settings), unused_database(redis_url)
    discriminator = build_app(
        DiscriminatorSettings(device="cpu"), store, ModelSettings(models_dir=folder)
    )
    with serving.app(discriminator) as url, pytest.MonkeyPatch.context() as environment:
        for name, value in {
            "QCRD_REDIS_URL": redis_settings.url,
            "QCRD_S3_ENDPOINT": s3_settings.endpoint,
            "QCRD_S3_ACCESS_KEY": s3_settings.access_key,
            "QCRD_S3_SECRET_KEY": s3_settings.secret_key.get_secret_value(),
            "QCRD_S3_BUCKET": s3_settings.bucket,
            "QCRD_MODELS_DIR": str(folder),
            "QCRD_DISCRIMINATOR_URL": url,
            "QCRD_DEVICE": "cpu",
            "QCRD_TENSORBOARD_DIR": str(folder.parent / "tensorboard"),
            "QCRD_CHECKPOINT_SECONDS": "0",
            "OMP_NUM_THREADS": "1",
        }.items():
            environment.setenv(name, value)
        redis = connect_redis(redis_settings)
        jobs, events = RedisJobStore(redis), RedisEventLog(redis)
        deps = WorkerDeps(jobs, events, store, MemoryJobQueue(), heartbeat=0.5, ttl=5.0)
        yield Site(deps, jobs, store, folder)
        redis.close()


@pytest.fixture(scope="package")
def calm(site: Site) -> Job:
    """A finished job of `spec()`, which nothing disturbed: what the disturbed ones are compared
    with."""
    job = site.work(site.submit(spec()))
    assert job.status is JobStatus.SUCCEEDED, job.failure
    return job
