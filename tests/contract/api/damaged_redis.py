"""A gateway on a real Redis whose values a test damages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qcrd.records.job import Job
from qcrd.runtime import redis_keys
from qcrd.runtime.jobs.archive.open_history import open_event_history, open_job_history
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.state_machine import index_scores
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.redis.counters import RedisCounters
from qcrd.runtime.settings import ModelSettings, RedisSettings
from qcrd.runtime.storage.store import MemoryStore
from services.api.app import create_app
from services.api.dependencies import GatewaySettings, SharedState
from services.api.http.idempotency_store import RedisIdempotencyStore
from services.api.settings import ApiSettings, FileSettings, TeacherSettings
from tests.bare_base import save_bare_base
from tests.unit.api.gateway_client import GatewayClient, sums

JOBS = "/v1/fine_tuning/jobs"


class DamagedGateway(GatewayClient):
    def __init__(self, redis_settings: RedisSettings, models: Path) -> None:
        save_bare_base(models / "tiny")
        self.redis = connect_redis(redis_settings)
        self.store, self.queue = MemoryStore(), MemoryJobQueue()
        self.jobs = open_job_history(self.redis, self.store)
        self.events = open_event_history(self.redis, self.store)
        settings = GatewaySettings(
            ApiSettings(), TeacherSettings(), FileSettings(), ModelSettings(models_dir=models)
        )
        shared = SharedState(
            counters=RedisCounters(self.redis), idempotency_store=RedisIdempotencyStore(self.redis)
        )
        super().__init__(
            create_app(self.store, self.jobs, self.events, self.queue, settings, shared)
        )
        self.training = self.file(sums(4))

    def new_job(self, seed: int = 1) -> str:
        answer = self.create(self.training, seed=seed)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def add_damaged_job(self, like: Job, job_id: str, record: bytes) -> None:
        """In every list that `like` is in, before all other jobs."""
        self.redis.set(redis_keys.job_key(job_id), record)
        for name, score in index_scores(like).items():
            self.redis.zadd(name, {job_id: score + 1e6})

    def listed(self) -> list[str]:
        answer = self.get(JOBS)
        return [job["id"] for job in answer["data"]]

    def get(self, path: str) -> Any:
        """The body of a 200."""
        answer = self.client.get(path)
        assert answer.status_code == 200, f"{path}: {answer.text}"
        is_json = answer.headers["content-type"].startswith("application/json")
        return answer.json() if is_json else answer.text
