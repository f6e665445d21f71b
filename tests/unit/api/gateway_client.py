"""A gateway with everything behind it in memory, a client of it, and requests for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from qcrd.records.job import PublishedModel
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.published_models import add_published_model
from qcrd.runtime.storage.store import MemoryStore, Store, write_record
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.settings import ApiSettings, FileSettings, TeacherSettings
from tests.bare_base import save_bare_base

TASK = {"task": {"answer": "number"}}
ABSENT = f"file-{'0' * 24}"


class GatewayClient:
    """A client of a gateway in this process, and requests."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.client = TestClient(
            self.app, base_url="http://127.0.0.1", raise_server_exceptions=False
        )

    def upload(self, data: bytes, name: str = "train.jsonl", purpose: str = "fine-tune") -> Any:
        return self.client.post(
            "/v1/files", files={"file": (name, data)}, data={"purpose": purpose}
        )

    def file(self, rows: list[dict[str, Any]]) -> str:
        answer = self.upload(lines(rows))
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def create(self, training: str, body: dict[str, Any] | None = None, **top: Any) -> Any:
        return self.client.post("/v1/fine_tuning/jobs", json=make_spec(training, body, **top))


class Here(GatewayClient):
    """A gateway, the twins behind it, and a client."""

    def __init__(
        self,
        models: Path,
        *,
        keys: tuple[str, ...] = (),
        file_bytes: int = 1 << 20,
        teachers: TeacherSettings | None = None,
    ) -> None:
        self.models = models
        save_bare_base(models / "tiny")
        self.store, self.jobs = MemoryStore(), MemoryJobStore()
        self.events, self.queue = MemoryEventLog(), MemoryJobQueue()
        settings = GatewaySettings(
            ApiSettings(keys=tuple(SecretStr(key) for key in keys)),
            teachers or TeacherSettings(),
            FileSettings(max_file_bytes=file_bytes),
            ModelSettings(models_dir=models),
        )
        super().__init__(create_app(self.store, self.jobs, self.events, self.queue, settings))


def make_spec(training: str, body: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    method = {"type": "qcrd", "qcrd": {**TASK, **(body or {})}}
    return {"model": "tiny", "training_file": training, "method": method, **top}


def lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {i} + 1?", "label": str(i + 1)} for i in range(start, start + count)
    ]


def refused(answer: Any, status: int, code: str, param: str | None = None) -> str:
    """The message of an error in the one envelope, which carries a request id."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert answer.headers["x-request-id"]
    return str(error["message"])


def published(store: Store) -> PublishedModel:
    model = PublishedModel(
        id=keys.new_id("model"),
        job_id=keys.new_id("ftjob"),
        created_at=5.0,
        base="tiny",
        files=("config.json",),
    )
    store.put(f"{keys.model_prefix(model.id)}config.json", b"{}")
    add_published_model(store, model)
    write_record(store, keys.model_manifest_key(model.id), model)
    return model
