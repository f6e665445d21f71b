"""The gateway tells of judges, with a real discriminator beside it, away, or holding others."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest
from fastapi.testclient import TestClient

from qcrd.method.judge.training_pairs import TrainingPair
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import DiscriminatorAddress, ModelSettings
from qcrd.runtime.storage.store import MemoryStore
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.settings import ApiSettings, FileSettings, TeacherSettings
from services.discriminator.main import build_app
from services.discriminator.settings import DiscriminatorSettings
from services.trainer.judge_client import RemoteJudge
from tests import tiny
from tests.conftest import free_ports
from tests.integration.conftest import Serve
from tests.unit.api.gateway_client import refused

JUDGES = [f"ftjob-{n:024d}" for n in range(3)]
SPEC = JudgeSpec(pretrain_steps=2, update_steps=1, batch_size=4, hidden=8, max_tokens=32)
CONTRASTS = [
    TrainingPair(f"question {i} ?", ("it swims",), ("it is a thing",), ("student_lag",))
    for i in range(40)
]


@pytest.fixture
def models(tmp_path: Path) -> ModelSettings:
    tiny.save_base(tmp_path / "tiny-bert")
    return ModelSettings(models_dir=tmp_path)


def gateway(store: MemoryStore, models: ModelSettings, url: str) -> TestClient:
    settings = GatewaySettings(
        ApiSettings(),
        TeacherSettings(),
        FileSettings(),
        models,
        discriminator=DiscriminatorAddress(url=url),
    )
    app = create_app(store, MemoryJobStore(), MemoryEventLog(), MemoryJobQueue(), settings)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def trained(url: str, judge_id: str, updates: int = 2) -> RemoteJudge:
    judge = RemoteJudge(url, judge_id, base="tiny-bert", spec=SPEC, seed=3, check=lambda: None)
    judge.pretrain(CONTRASTS)
    for iteration in range(updates):
        judge.update(iteration, CONTRASTS, weight=0.5)
    return judge


def test_a_judge_in_memory_is_told_by_the_service(serve: Serve, models: ModelSettings) -> None:
    store = MemoryStore()
    url = serve(build_app(DiscriminatorSettings(device="cpu"), store, models))
    trained(url, JUDGES[0])
    client = gateway(store, models, url)
    found = client.get(f"/v1/discriminators/{JUDGES[0]}").json()
    assert (found["source"], found["service"]) == ("service", "ok")
    assert (found["base"], found["seed"], found["version"]) == ("tiny-bert", 3, 3)
    assert found["spec"] == SPEC.model_dump()
    assert [one["version"] for one in found["versions"]] == [3, 2, 1]
    assert found["current"] == found["versions"][0]
    assert set(found["current"]["histograms"]["scores"]) == {"positives", "student_lag"}
    assert "auc" in found["current"]["health"]
    # Gone back to, the service's own version is what is current, whatever the store has besides.
    httpx2.post(f"{url}/v1/judges/{JUDGES[0]}/restore", json={"version": 1}).raise_for_status()
    assert client.get(f"/v1/discriminators/{JUDGES[0]}").json()["current"]["version"] == 1


def test_looking_at_an_evicted_judge_displaces_no_other(
    serve: Serve, models: ModelSettings
) -> None:
    """The service holds one judge; the first is told from the store, and the second stays."""
    store = MemoryStore()
    url = serve(build_app(DiscriminatorSettings(device="cpu", resident=1), store, models))
    trained(url, JUDGES[0])
    trained(url, JUDGES[1], updates=0)
    client = gateway(store, models, url)
    found = client.get(f"/v1/discriminators/{JUDGES[0]}").json()
    assert (found["source"], found["service"]) == ("store", "does not hold it in memory")
    assert found["current"]["version"] == 3
    held = client.get(f"/v1/discriminators/{JUDGES[1]}").json()
    assert (held["source"], held["current"]["version"]) == ("service", 1)


def test_the_store_tells_while_the_service_is_away(serve: Serve, models: ModelSettings) -> None:
    store = MemoryStore()
    trained(serve(build_app(DiscriminatorSettings(device="cpu"), store, models)), JUDGES[0])
    client = gateway(store, models, f"http://127.0.0.1:{free_ports(1)[0]}")
    answer = client.get(f"/v1/discriminators/{JUDGES[0]}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["source"] == "store"
    assert answer.json()["service"] == "does not respond (ConnectError)"
    assert answer.json()["current"]["histograms"] is not None
    missing = client.get(f"/v1/discriminators/{JUDGES[1]}")
    refused(missing, 404, "discriminator_not_found", "judge_id")
    refused(client.get("/v1/discriminators/x"), 404, "discriminator_not_found", "judge_id")


def test_judges_are_listed_in_pages(serve: Serve, models: ModelSettings) -> None:
    store = MemoryStore()
    url = serve(build_app(DiscriminatorSettings(device="cpu"), store, models))
    for updates, judge_id in enumerate(JUDGES):
        trained(url, judge_id, updates=updates)
    client = gateway(store, models, url)
    first = client.get("/v1/discriminators?limit=2").json()
    assert [(one["id"], one["version"]) for one in first["data"]] == [
        (JUDGES[0], 1),
        (JUDGES[1], 2),
    ]
    assert first["has_more"] is True
    rest = client.get(f"/v1/discriminators?limit=2&after={first['last_id']}").json()
    assert [one["id"] for one in rest["data"]] == [JUDGES[2]]
    assert rest["has_more"] is False
    refused(client.get("/v1/discriminators?after=x"), 400, "invalid_value", "after")
