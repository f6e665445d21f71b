"""Needs a Docker engine, and QCRD_COMPOSE=1: images of torch are built and jobs are run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.compose.stack import Stack, step


def require_docker() -> None:
    if os.environ.get("QCRD_COMPOSE") != "1":
        pytest.skip("builds images and runs containers: `make test-compose` does, QCRD_COMPOSE=1")
    try:
        found = subprocess.run(
            ["docker", "compose", "version"], capture_output=True, text=True, timeout=60
        )
        engine = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("there is no `docker` command")
    for done in (found, engine):
        if done.returncode:
            pytest.skip(f"there is no Docker engine: {done.stderr.strip()[:200]}")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """From nothing to healthy; at the end nothing is left but images."""
    require_docker()
    stack = Stack("qcrd-test")
    stack.down("-v")
    try:
        with step("images are built"):
            stack.build()
        with step("up, from nothing to healthy"):
            stack.up()
        yield stack
    except BaseException:
        print(stack.logs())
        raise
    finally:
        stack.down("-v")
