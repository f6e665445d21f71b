"""One system for all of these tests, and the undisturbed run that the others are compared with.

QCRD_SURVIVAL says how often each case is run (1 unless told), QCRD_SURVIVAL_SEED which moments.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.survival.stack.runs import CALM_REQUEST, Calm, Data, begin, watched
from tests.survival.stack.system import System

REPETITIONS = int(os.environ.get("QCRD_SURVIVAL", "1"))
SEED = int(os.environ.get("QCRD_SURVIVAL_SEED", "0"))
STORE_BYTES = (512 + 160 * (REPETITIONS - 1)) * 2**20
"""Most of it is taken only where a test fills it up: a repetition of all cases leaves 80 MB."""
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time for a machine that does other things too."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(900))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each case as often as QCRD_SURVIVAL says."""
    if "rng" in metafunc.fixturenames:
        metafunc.parametrize("rng", range(REPETITIONS), ids=lambda n: f"run{n}", indirect=True)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Of the seed, the case and the number of its repetition: the same moments every time."""
    return random.Random(f"{SEED}/{request.node.name}")


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """On a file system of its own where that may be mounted, so that a test can fill it."""
    folder = tmp_path_factory.mktemp("store")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={STORE_BYTES}", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory, store_folder: Path) -> Iterator[System]:
    made = System(tmp_path_factory.mktemp("system"), store_folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="session")
def data(system: System) -> Data:
    return Data.uploaded(system)


@pytest.fixture(scope="session")
def calm(system: System, data: Data) -> Calm:
    found = watched(begin(system, data, random.Random(0), request_id=CALM_REQUEST))
    stages = ", ".join(f"{stage.value} from {at:.1f} s" for stage, at in found.begins.items())
    print(f"undisturbed: {found.seconds:.1f} s; {stages}")
    return found
