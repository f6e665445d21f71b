"""In every stack Redis refuses writes before its memory limit kills it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from qcrd.cli.stack import environment, procfile
from qcrd.cli.stack.home import StackHome
from qcrd.cli.stack.ports import PORT_NAMES
from tests.unit.repository.test_compose import compose

ROOT = Path(__file__).parents[3]
MIB = 2**20
DEFAULT_LIMIT = 1024 * MIB
"""What a stack gives it that names no limit."""
UNITS = {"mb": MIB, "m": MIB, "mi": MIB, "gb": 1024 * MIB, "g": 1024 * MIB, "gi": 1024 * MIB}


def parse_bytes(text: str) -> int:
    digits = text.rstrip("BGIMbgim")
    return int(digits) * UNITS[text[len(digits) :].lower()]


def in_compose(tmp_path: Path) -> tuple[list[str], Any]:
    """Its limit is the default of a variable: `${QCRD_REDIS_MEMORY:-1g}`."""
    service = compose(ROOT / "compose.yaml")["services"]["redis"]
    return service["command"], service["mem_limit"].partition(":-")[2].rstrip("}")


def in_kubernetes(tmp_path: Path) -> tuple[list[str], Any]:
    documents = list(yaml.safe_load_all((ROOT / "k8s/base/redis.yaml").read_text()))
    (stateful,) = [each for each in documents if each["kind"] == "StatefulSet"]
    container = stateful["spec"]["template"]["spec"]["containers"][0]
    return container["command"], container["resources"]["limits"]["memory"]


def in_embedded_stack(tmp_path: Path) -> tuple[list[str], Any]:
    home = StackHome(tmp_path)
    home.create_folders()
    ports = dict.fromkeys(PORT_NAMES, 1)
    bundled = procfile.get_bundled_path()
    settings = environment.build_environment(home, ports, bundled, os.environ)
    return procfile.build_argv(procfile.read_procfile(bundled)["valkey"], settings), None


@pytest.mark.parametrize("stack", [in_compose, in_kubernetes, in_embedded_stack])
def test_the_limit_of_redis_is_well_below_that_of_its_memory(stack: Any, tmp_path: Path) -> None:
    command, limit = stack(tmp_path)
    most = parse_bytes(command[command.index("--maxmemory") + 1])
    memory = DEFAULT_LIMIT if limit is None else parse_bytes(limit)
    assert 0.55 <= most / memory <= 0.65
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
