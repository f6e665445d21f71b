"""What the tests of the trainer start from: real servers around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.settings import ModelSettings, RedisSettings, StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from services.discriminator.main import build_app
from services.discriminator.settings import DiscriminatorSettings
from tests import tiny
from tests.integration.conftest import Serve
from tests.integration.site import Site


@pytest.fixture
def site(
    serve: Serve,
    redis_settings: RedisSettings,
    s3_settings: StoreSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    tiny.save_base(tmp_path / "tiny-bert")
    store = S3Store(s3_settings)
    models = ModelSettings(models_dir=tmp_path)
    url = serve(build_app(DiscriminatorSettings(device="cpu"), store, models))
    for name, value in {
        "QCRD_REDIS_URL": redis_settings.url,
        "QCRD_S3_ENDPOINT": s3_settings.endpoint,
        "QCRD_S3_ACCESS_KEY": s3_settings.access_key,
        "QCRD_S3_SECRET_KEY": s3_settings.secret_key.get_secret_value(),
        "QCRD_S3_BUCKET": s3_settings.bucket,
        "QCRD_MODELS_DIR": str(tmp_path),
        "QCRD_DISCRIMINATOR_URL": url,
        "QCRD_DEVICE": "cpu",
        "QCRD_CHECKPOINT_SECONDS": "0",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    redis = connect_redis(redis_settings)
    jobs = RedisJobStore(redis)
    deps = WorkerDeps(jobs, RedisEventLog(redis), store, MemoryJobQueue(), heartbeat=0.5, ttl=5.0)
    yield Site(deps, jobs, store)
    redis.close()
