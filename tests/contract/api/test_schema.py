"""The gateway against its own OpenAPI document, on real Valkey and SeaweedFS, by every check that
schemathesis has: no server error, no answer that is not described, no crash of a link."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import settings

from qcrd.runtime.settings import RedisSettings, StoreSettings
from tests.bare_base import save_bare_base
from tests.conftest import free_ports

ROOT = Path(__file__).parents[3]
CONFIG = Path(__file__).with_name("gateway_schema.toml")
WITHOUT_BOUNDARIES = """
[[operations]]
include-operation-id = "estimate_fine_tuning_job"
phases.coverage.enabled = false

[[operations]]
include-operation-id = "create_study"
phases.coverage.enabled = false
"""
KEY = "sk-of-the-schema-test"


@pytest.fixture
def url(
    redis_settings: RedisSettings, fresh_s3_settings: StoreSettings, tmp_path: Path
) -> Iterator[str]:
    save_bare_base(tmp_path / "models/tiny")
    port = free_ports(1)[0]
    environment = {
        "PATH": "/usr/bin:/bin",
        "HF_HUB_OFFLINE": "1",
        "QCRD_REDIS_URL": redis_settings.url,
        "QCRD_S3_ENDPOINT": fresh_s3_settings.endpoint,
        "QCRD_S3_ACCESS_KEY": fresh_s3_settings.access_key,
        "QCRD_S3_SECRET_KEY": fresh_s3_settings.secret_key.get_secret_value(),
        "QCRD_S3_BUCKET": fresh_s3_settings.bucket,
        "QCRD_MODELS_DIR": str(tmp_path / "models"),
        "QCRD_API_PORT": str(port),
        "QCRD_API_KEYS": KEY,
        "PYTHONPATH": str(ROOT),
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "services.api.main"], env=environment, stdout=out, stderr=out
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(address, gateway, log)
        yield address
    finally:
        gateway.terminate()
        gateway.wait(60)
    assert '"level": "error"' not in log.read_text()


def wait_until_ready(address: str, gateway: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert gateway.poll() is None, log.read_text()[-3000:]
        try:
            if httpx2.get(f"{address}/ready").status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.2)
    pytest.fail(f"the gateway did not become ready:\n{log.read_text()[-3000:]}")


def seeded(address: str) -> dict[str, Any]:
    """A file and a job, so that some generated requests meet something."""
    headers = {"Authorization": f"Bearer {KEY}"}
    rows = [{"question": f"What is {i} + 1?", "label": str(i + 1)} for i in range(5)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with httpx2.Client(base_url=address, headers=headers) as client:
        form = {"files": {"file": ("train.jsonl", data)}, "data": {"purpose": "fine-tune"}}
        file = client.post("/v1/files", **form).json()
        method = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}}
        body = {"model": "tiny", "training_file": file["id"], "method": method}
        job = client.post("/v1/fine_tuning/jobs", json=body)
        assert job.status_code == 200, job.text
        return {"file": file["id"], "job": job.json()["id"]}


def written_config(folder: Path) -> Path:
    """`gateway_schema.toml`, and unless the hypothesis profile is `thorough`, each boundary of a
    job's body once: the three routes that take one read it by the same code."""
    config = folder / "schemathesis.toml"
    others = "" if settings.get_current_profile_name() == "thorough" else WITHOUT_BOUNDARIES
    config.write_text(CONFIG.read_text() + others)
    return config


@pytest.mark.timeout(600)
def test_every_answer_is_a_described_one_and_none_is_a_server_error(
    url: str, tmp_path: Path
) -> None:
    seeded(url)
    schemathesis = Path(sys.executable).with_name("schemathesis")
    ended = subprocess.run(
        [
            schemathesis,
            f"--config-file={written_config(tmp_path)}",
            "run",
            f"{url}/openapi.json",
            f"--header=Authorization: Bearer {KEY}",
            "--seed=1",
            "--max-examples=20",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert ended.returncode == 0, ended.stdout[-12000:]
    assert httpx2.get(f"{url}/health").status_code == 200
