"""The stack in containers, driven as an operator would: `docker compose`, REST from the host."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import yaml

from qcrd.records.rationales import Prediction
from qcrd.runtime import keys
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.s3 import S3Store

ROOT = Path(__file__).parents[3]
DATA = Path(__file__).parents[1]
STANDINS = {"redis:8.2-bookworm": "redis", "chrislusf/seaweedfs:4.48": "seaweedfs"}
"""Images that a machine without a registry builds of Debian's and PyPI's packages."""
OWN_IMAGES = ("qcrd-api", "qcrd-teacher", "qcrd-discriminator", "qcrd-trainer")
OVER = ("succeeded", "failed", "cancelled", "paused")
WAIT_SECONDS = 1200.0
"""A job takes a minute or two on two idle cores; a busy machine, ten times that."""

T = TypeVar("T")


class Stack:
    """One project of its own, on ports of its own. `overrides` are further compose files."""

    def __init__(self, project: str, *overrides: Path, api_port: int = 18000) -> None:
        self.project = project
        self.files = [ROOT / "compose.yaml", ROOT / "compose.seaweedfs.yaml", *overrides]
        self.s3_port = api_port + 1000
        self.url = f"http://127.0.0.1:{api_port}"
        ports = {
            "QCRD_API_PUBLISHED_PORT": str(api_port),
            "QCRD_S3_PUBLISHED_PORT": str(self.s3_port),
            "QCRD_TESTS_DIR": str(ROOT / "tests"),  # for hub.yaml
        }
        given = ("QCRD_API_KEY", "QCRD_S3_ACCESS_KEY", "QCRD_S3_SECRET_KEY", "QCRD_REDIS_PASSWORD")
        self.environment = {k: v for k, v in os.environ.items() if k not in given} | ports

    def docker(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1800,
        )
        assert not check or done.returncode == 0, f"docker {arguments}: {done.stderr[-4000:]}"
        return done.stdout.strip()

    def compose(self, *arguments: str, check: bool = True) -> str:
        files = [part for file in self.files for part in ("-f", str(file))]
        return self.docker("compose", "-p", self.project, *files, *arguments, check=check)

    def build(self) -> None:
        if os.environ.get("STANDINS") == "1":
            for tag, target in STANDINS.items():
                self.docker("build", "-q", "-t", tag, "--target", target, "tests/e2e/standins")
        self.compose("build", "-q")

    def up(self, *arguments: str) -> None:
        self.compose("up", "-d", "--wait", "--wait-timeout", "900", *arguments)

    def down(self, *arguments: str) -> None:
        """With what an override brought that is not named here."""
        self.compose("down", "--remove-orphans", "--timeout", "100", *arguments)

    def container(self, service: str) -> str:
        return self.compose("ps", "-a", "-q", service).split()[0]

    def inspect(self, service: str, template: str) -> str:
        return self.docker("inspect", "-f", template, self.container(service))

    def kill(self, service: str) -> None:
        """SIGKILL to its process from outside, as the kernel does: `restart:` is to bring it back.
        Where the engine is elsewhere it is killed and started by hand."""
        before = self.inspect(service, "{{.State.StartedAt}}")
        try:
            os.kill(int(self.inspect(service, "{{.State.Pid}}")), signal.SIGKILL)
        except (PermissionError, ProcessLookupError):
            self.compose("kill", "-s", "KILL", service)
            self.compose("start", service)
        wait_for(
            lambda: (
                self.inspect(service, "{{.State.Running}} {{.State.StartedAt}}")
                not in (f"true {before}", f"false {before}")
            ),
            f"{service} is started again",
        )

    def pause(self, service: str) -> None:
        """Tried again: on a busy machine runc gives up freezing a process that is just at work."""

        def is_paused() -> bool:
            self.compose("pause", service, check=False)
            return self.inspect(service, "{{.State.Paused}}") == "true"

        wait_for(is_paused, f"{service} is paused")

    def healthy(self, service: str) -> bool:
        return self.inspect(service, "{{.State.Health.Status}}") == "healthy"

    def wait_healthy(self, *services: str) -> None:
        for service in services:
            wait_for(lambda service=service: self.healthy(service), f"{service} is healthy")

    # --- REST --------------------------------------------------------------------------------

    def key(self) -> str:
        return self.compose("exec", "-T", "api", "qcrd", "key")

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """Again for as long as a part that a test has ended is away."""

        def ask() -> httpx2.Response | None:
            try:
                answer = httpx2.request(
                    method, self.url + path, headers=self._headers(), timeout=30, **arguments
                )
            except httpx2.TransportError:
                return None
            return None if answer.status_code in (429, 503) else answer

        return wait_for(ask, f"{method} {path} is answered").raise_for_status().json()

    def _headers(self) -> dict[str, str]:
        if not hasattr(self, "_key"):
            self._key = self.key()
        return {"Authorization": f"Bearer {self._key}"}

    def upload(self, name: str) -> str:
        content = (DATA / name).read_bytes()
        files, purpose = {"file": (name, content)}, {"purpose": "fine-tune"}
        return str(self.request("POST", "/v1/files", files=files, data=purpose)["id"])

    def create(self, *, iterations: int | None = None, **changes: Any) -> str:
        """A job of `small.yaml` without its baseline and most of its examples, whose tokens the
        teacher reads for a minute; the teacher's outputs are reused."""
        body = yaml.safe_load((DATA / "small.yaml").read_text()) | changes
        settings = body["method"]["qcrd"]
        settings.pop("baselines")
        settings["task"]["examples"] = settings["task"]["examples"][:3]
        if iterations is not None:
            settings["hyperparameters"]["iterations"] = iterations
        for field in ("training_file", "test_file"):
            body[field] = self.upload(body[field])
        return str(self.request("POST", "/v1/fine_tuning/jobs", json=body)["id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.request("GET", f"/v1/fine_tuning/jobs/{job_id}"))

    def events(self, job_id: str) -> list[str]:
        found: list[str] = []
        after = ""
        while True:
            path = f"/v1/fine_tuning/jobs/{job_id}/events?limit=100{after}"
            page = self.request("GET", path)
            found += [event["message"] for event in page["data"]]
            if not page["has_more"]:
                return found
            after = f"&after={page['data'][-1]['id']}"

    def wait_for_stage(self, job_id: str, stage: str, percent: float = 0.0) -> None:
        """Until the job works on `stage` and has come past `percent` of it."""

        def look() -> bool:
            job = self.job(job_id)
            assert job["status"] not in OVER, f"{job_id} was over before {stage}: {job}"
            return job.get("stage") == stage and job["progress"]["percent"] >= percent

        wait_for(look, f"{job_id} is in {stage}", pause=0.5)

    def ended(self, job_id: str) -> list[Prediction]:
        """The predictions of a job that has to succeed."""
        job = wait_for(
            lambda: found if (found := self.job(job_id))["status"] in OVER else None,
            f"{job_id} ends",
            pause=1.0,
        )
        assert job["status"] == "succeeded", json.dumps(job) + "\n" + self.logs()
        spent = {stage: round(spent) for stage, spent in job["report"]["seconds"].items()}
        print(f"compose: {job_id}: seconds by stage: {spent}", flush=True)
        return self.predictions(job_id)

    def predictions(self, job_id: str) -> list[Prediction]:
        return list(read_lines(self.store(), keys.job_predictions_key(job_id), Prediction))

    def store(self) -> S3Store:
        secrets = {
            name: self.compose("exec", "-T", "api", "cat", f"/secrets/s3/QCRD_S3_{name.upper()}")
            for name in ("access_key", "secret_key")
        }
        return S3Store(StoreSettings(endpoint=f"127.0.0.1:{self.s3_port}", **secrets))

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """0 while the gateway itself does not answer."""
        try:
            answer = httpx2.get(f"{self.url}/ready", timeout=30)
            return answer.status_code, answer.json()
        except (httpx2.TransportError, ValueError):
            return 0, {}

    def logs(self) -> str:
        return self.compose("logs", "--no-color", "--tail", "40", check=False)


def wait_for(
    look: Callable[[], T | None], what: str, *, seconds: float = WAIT_SECONDS, pause: float = 0.3
) -> T:
    """What `look` finds, once it finds something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(pause)
    raise AssertionError(f"it did not happen in {seconds:.0f} s that {what}")


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """Print how long the block took."""
    begun = time.monotonic()
    yield
    print(f"compose: {name}: {time.monotonic() - begun:.0f} s", flush=True)
