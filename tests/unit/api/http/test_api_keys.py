"""Who may do what: keys from a file, scopes, rates, and keys that change while the gateway runs."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from qcrd.cli.commands.keys import make_key
from qcrd.records.api_keys import ApiKeyScope
from qcrd.records.job import PublishedModel
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.store import MemoryStore, write_record
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.http.access.api_keys import ApiKeyStore, read_keys
from services.api.settings import ApiSettings, FileSettings, TeacherSettings
from tests.bare_base import save_bare_base
from tests.unit.api.gateway_client import TASK, Here, lines, refused, sums

pytestmark = pytest.mark.usefixtures("without_a_hub")


def entry(name: str, secret: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "sha256": hashlib.sha256(secret.encode()).hexdigest(), **more}


def write(file: Path, *entries: dict[str, Any]) -> None:
    """As an editor or a Kubernetes secret would: a new file under the old name."""
    fresh = file.with_suffix(".new")
    fresh.write_text(json.dumps({"keys": entries}))
    fresh.replace(file)


class Site:
    def __init__(self, folder: Path, *entries: dict[str, Any]) -> None:
        save_bare_base(folder / "models/tiny")
        self.file = folder / "keys.json"
        write(self.file, *entries)
        self.jobs = MemoryJobStore()
        settings = GatewaySettings(
            ApiSettings(keys_file=self.file),
            TeacherSettings(),
            FileSettings(),
            ModelSettings(models_dir=folder / "models"),
            key_reload_check_seconds=0.0,
        )
        self.store = MemoryStore()
        self.app = create_app(self.store, self.jobs, MemoryEventLog(), MemoryJobQueue(), settings)

    def as_(self, secret: str) -> TestClient:
        headers = {"Authorization": f"Bearer {secret}"}
        return TestClient(
            self.app, base_url="http://127.0.0.1", headers=headers, raise_server_exceptions=False
        )

    def job(self, client: TestClient, **top: Any) -> Any:
        file = client.post(
            "/v1/files",
            files={"file": ("t.jsonl", lines(sums(4)))},
            data={"purpose": "fine-tune"},
        ).json()["id"]
        method = {"type": "qcrd", "qcrd": TASK}
        body = {"model": "tiny", "training_file": file, "method": method, **top}
        return client.post("/v1/fine_tuning/jobs", json=body)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(
        tmp_path,
        entry("reader", "r", scopes=["read"]),
        entry("ci", "w"),
        entry("other", "o"),
        entry("boss", "a", scopes=["admin"]),
    )


def test_a_key_does_what_its_scopes_say(site: Site) -> None:
    assert site.as_("r").get("/v1/files").status_code == 200
    message = refused(site.as_("r").post("/v1/fine_tuning/jobs"), 403, "insufficient_scope")
    assert "reader" in message
    assert "`write`" in message
    assert site.job(site.as_("w")).json()["created_by"] == "ci"
    assert site.job(site.as_("a")).json()["created_by"] == "boss"
    refused(site.as_("x").get("/v1/files"), 401, "invalid_api_key")
    assert site.as_("x").get("/health").status_code == 200


def test_only_its_creator_or_an_admin_changes_a_job(site: Site) -> None:
    job_id = site.job(site.as_("w")).json()["id"]
    url = f"/v1/fine_tuning/jobs/{job_id}"
    for verb in ("cancel", "pause", "resume"):
        refused(site.as_("o").post(f"{url}/{verb}"), 403, "not_owner")
    refused(site.as_("o").delete(url), 403, "not_owner")
    assert site.as_("w").post(f"{url}/pause").json()["status"] == "paused"
    assert site.as_("a").post(f"{url}/cancel").json()["status"] == "cancelled"


def test_going_before_everybody_takes_an_admin(site: Site) -> None:
    refused(site.job(site.as_("w"), priority="high"), 403, "insufficient_scope", "priority")
    assert site.job(site.as_("a"), priority="high").json()["priority"] == "high"
    file = site.job(site.as_("w")).json()["training_file"]
    job: dict[str, Any] = {"model": "tiny", "training_file": file, "priority": "high"}
    job["method"] = {"type": "finetune", "finetune": TASK}
    study = {"job": job, "methods": ["finetune"], "baseline": "finetune"}
    refused(
        site.as_("w").post("/v1/studies", json=study), 403, "insufficient_scope", "job.priority"
    )
    assert site.as_("a").post("/v1/studies", json=study).status_code == 200
    assert site.job(site.as_("w"), priority="low").json()["priority"] == "low"


def test_the_limit_of_running_jobs_goes_into_the_job(tmp_path: Path) -> None:
    site = Site(tmp_path, entry("ci", "w", running_jobs=2))
    job_id = site.job(site.as_("w")).json()["id"]
    assert site.jobs.get(job_id).running_limit == 2


def test_requests_beyond_the_rate_are_told_when_to_come_back(tmp_path: Path) -> None:
    site = Site(tmp_path, entry("slow", "s", requests_per_minute=3), entry("free", "f"))
    # Where one minute ends and the next begins, some of the old one's requests are let go.
    if (left := 60 - time.time() % 60) < 5:
        time.sleep(left + 0.1)
    answers = [site.as_("s").get("/v1/files") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == [
        "2",
        "1",
        "0",
    ]
    fourth = site.as_("s").get("/v1/files")
    refused(fourth, 429, "rate_limit_exceeded")
    assert fourth.json()["error"]["type"] == "rate_limit_error"
    assert 1 <= int(fourth.headers["retry-after"]) <= 60
    free = site.as_("f").get("/v1/files")
    assert free.status_code == 200
    assert "x-ratelimit-limit-requests" not in free.headers


def test_keys_are_rotated_without_a_restart(site: Site) -> None:
    write(site.file, entry("ci", "w2"))
    assert site.as_("w2").get("/v1/files").status_code == 200
    refused(site.as_("w").get("/v1/files"), 401, "invalid_api_key")
    # A file that is broken for a moment, or gone, changes nothing.
    site.file.write_text('{"keys": [')
    assert site.as_("w2").get("/v1/files").status_code == 200
    site.file.unlink()
    assert site.as_("w2").get("/v1/files").status_code == 200
    # One that lost its last key closes the door; it does not open it.
    write(site.file)
    refused(site.as_("w2").get("/v1/files"), 401, "invalid_api_key")
    refused(
        TestClient(site.app, base_url="http://127.0.0.1").get("/v1/files"), 401, "invalid_api_key"
    )


def test_a_key_ends_when_it_expires(tmp_path: Path) -> None:
    def at(seconds: float) -> str:
        stamp = time.gmtime(time.time() + seconds)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", stamp)

    old = entry("old", "o", expires_at=at(-5))
    site = Site(tmp_path, old, entry("new", "n", expires_at=at(60)))
    refused(site.as_("o").get("/v1/files"), 401, "invalid_api_key")
    assert site.as_("n").get("/v1/files").status_code == 200


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("sk-a-secret-by-mistake", "is not JSON"),
        ('{"keys": [{"name": "a b", "sha256": "0"}]}', "`keys.0.name`"),
        (json.dumps({"keys": [{"name": "a", "key": "sk-plain"}]}), "`keys.0.sha256`"),
        (json.dumps({"keys": [entry("key-1", "x")]}), "one that the gateway gives itself"),
        (json.dumps({"keys": [entry("a", "x"), entry("a", "y")]}), "same `name`"),
        (json.dumps({"keys": [entry("a", "x"), entry("b", "x")]}), "same `sha256`"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_without_its_secrets(
    tmp_path: Path, content: str, told: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="keys") as raised:
        ApiKeyStore((), file)
    assert told in str(raised.value)
    for secret in ("mistake", "sk-plain"):
        assert secret not in str(raised.value)


def test_beyond_loopback_a_file_without_keys_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    write(file)
    settings = GatewaySettings(
        ApiSettings(host="0.0.0.0", keys_file=file),
        TeacherSettings(),
        FileSettings(),
        ModelSettings(models_dir=tmp_path),
    )
    with pytest.raises(ValueError, match="refusing to listen"):
        create_app(MemoryStore(), MemoryJobStore(), MemoryEventLog(), MemoryJobQueue(), settings)


def test_a_new_key_is_shown_once_and_its_entry_holds_only_a_hash(tmp_path: Path) -> None:
    secret, made = make_key("ci", [ApiKeyScope.READ])
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [made.model_dump(mode="json", exclude_none=True)]}))
    os.utime(file)
    assert secret.startswith("sk-qcrd-")
    assert secret not in file.read_text()
    assert read_keys(file) == (made,)
    found = ApiKeyStore((), file).find(secret)
    assert found is not None
    assert found.scopes == (ApiKeyScope.READ,)


# --- whose things are ---------------------------------------------------------------------------


def upload(client: TestClient, start: int = 0) -> str:
    sent = {"file": ("t.jsonl", lines(sums(4, start)))}
    answer = client.post("/v1/files", files=sent, data={"purpose": "fine-tune"})
    return str(answer.json()["id"])


def test_a_file_is_its_first_uploaders(site: Site) -> None:
    file_id = upload(site.as_("w"))
    assert upload(site.as_("o")) == file_id
    refused(site.as_("o").delete(f"/v1/files/{file_id}"), 403, "not_owner")
    assert site.as_("o").get(f"/v1/files/{file_id}").status_code == 200
    assert site.as_("w").delete(f"/v1/files/{file_id}").json()["deleted"] is True
    assert upload(site.as_("w")) == file_id
    assert site.as_("a").delete(f"/v1/files/{file_id}").json()["deleted"] is True


def test_a_model_is_its_jobs_owners_and_afterwards_an_admins(site: Site) -> None:
    job_id = site.job(site.as_("w")).json()["id"]
    model = PublishedModel(
        id=keys.new_id("model"), job_id=job_id, created_at=5.0, base="tiny", files=()
    )
    key = keys.model_manifest_key(model.id)
    write_record(site.store, key, model)
    url = f"/v1/models/{model.id}"
    refused(site.as_("o").delete(url), 403, "not_owner")
    assert site.as_("w").delete(url).json()["deleted"] is True
    write_record(site.store, key, model)
    site.jobs.delete(job_id)
    assert "is of a job that is gone" in refused(site.as_("w").delete(url), 403, "not_owner")
    assert site.as_("a").delete(url).json()["deleted"] is True


def study(site: Site) -> dict[str, Any]:
    job = {
        "model": "tiny",
        "training_file": upload(site.as_("w")),
        "test_file": upload(site.as_("w"), 50),
        "method": {"type": "qcrd", "qcrd": TASK},
    }
    body = {"job": job, "methods": ["finetune", "qcrd"], "baseline": "finetune"}
    return dict(site.as_("w").post("/v1/studies", json=body).json())


def test_a_study_is_its_creators(site: Site) -> None:
    made = study(site)
    url, (_, last) = f"/v1/studies/{made['id']}", [job["id"] for job in made["jobs"]]
    site.jobs.delete(last)
    for verb in ("cancel", "resume"):
        refused(site.as_("o").post(f"{url}/{verb}"), 403, "not_owner")
    jobs = site.as_("o").get(url).json()["jobs"]
    assert [job["status"] for job in jobs] == ["queued", None]
    assert site.as_("w").post(f"{url}/resume").status_code == 200
    assert site.as_("w").post(f"{url}/cancel").json()["status"] == "failed"


def test_a_study_is_ended_as_a_whole_or_not_at_all(site: Site) -> None:
    """An admin has created one of its jobs anew: only an admin may end that one."""
    made = study(site)
    url = f"/v1/studies/{made['id']}"
    site.jobs.delete(made["leader"])
    assert site.as_("a").post(f"{url}/resume").status_code == 200
    refused(site.as_("w").post(f"{url}/cancel"), 403, "not_owner")
    jobs = site.as_("w").get(url).json()["jobs"]
    assert [job["status"] for job in jobs] == ["queued", "queued"]
    assert site.as_("a").post(f"{url}/cancel").json()["status"] == "failed"


def test_the_schema_of_specs_needs_no_key(tmp_path: Path) -> None:
    """Editors send none."""
    here = Here(tmp_path / "models", keys=("secret",))
    bare = TestClient(here.app, base_url="http://127.0.0.1")
    answer = bare.get("/v1/spec.schema.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/schema+json"
    assert answer.json()["title"] == "qcrd job"
    refused(bare.get("/v1/files"), 401, "invalid_api_key")
