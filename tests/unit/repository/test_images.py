"""Images, without an engine: locks pin what constraints.txt has, code comes after dependencies."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import qcrd
from tests.unit.repository.test_compose import FILES, compose

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LOCKS = sorted((ROOT / "locks").glob("*.txt"))
PIN = re.compile(r"^([\w.-]+)==([^\s;\\]+)(.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)*)", re.M)
TARGETS = ("api", "teacher", "discriminator", "trainer")
LINUX_ONLY = re.compile(r"win32|emscripten|python_full_version < '3\.11\.3'")
"""Markers of what no image installs; constraints.txt is of one machine and lacks it."""


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, tuple[str, str]]:
    """Version and the rest of the entry, by package."""
    return {normalise(n): (v, rest) for n, v, rest in PIN.findall(path.read_text())}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_has_the_versions_of_the_constraints_and_hashes(path: Path) -> None:
    allowed = pins(ROOT / "constraints.txt")
    locked = pins(path)
    assert locked
    for name, (version, rest) in locked.items():
        assert "--hash=sha256:" in rest, f"{name} has no hash"
        if not LINUX_ONLY.search(rest.splitlines()[0]):
            assert allowed[name][0] == version.removesuffix("+cpu"), f"{name}: make lock"


def test_each_package_comes_from_one_index() -> None:
    assert list(pins(ROOT / "locks/torch-cpu.txt")) == ["torch"]
    gpu = {"torch", "triton", "nvidia-cublas"}
    assert not gpu & (pins(ROOT / "locks/ml-cpu.txt").keys() | pins(ROOT / "locks/api.txt").keys())
    assert gpu <= pins(ROOT / "locks/ml-cuda.txt").keys()
    assert "extra-index-url" not in DOCKERFILE.lower()


def stages() -> dict[str, list[str]]:
    """The instructions of each stage, without comments."""
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M)).splitlines():
        if start := re.match(r"FROM \S+ AS (\S+)", line):
            found[start[1]] = []
        elif found and line.strip():
            found[list(found)[-1]].append(line)
    return found


def test_code_comes_after_all_that_is_installed() -> None:
    """A changed line of code or README rebuilds no dependency and runs no apt-get."""
    for name, lines in stages().items():
        if name not in TARGETS:
            assert not any(re.search(r"COPY .*(qcrd|services|README)", line) for line in lines)
            continue
        first = next(n for n, line in enumerate(lines) if line.startswith("COPY qcrd"))
        assert not any(re.search(r"\bpip\b|apt-get", line) for line in lines)
        assert not any(line.startswith("RUN") for line in lines[first:])


def test_targets_run_as_a_number_and_are_asked_how_they_are() -> None:
    for name in TARGETS:
        lines = stages()[name]
        assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
        assert sum(line.startswith("HEALTHCHECK") for line in lines) == 1
        assert any(f"org.opencontainers.image.title=qcrd-{name}" in line for line in lines)
        assert lines[-1].startswith("CMD [")
    assert f"org.opencontainers.image.version={qcrd.__version__}" in DOCKERFILE


def test_the_base_image_is_pinned_by_digest() -> None:
    default = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.M)
    assert default
    assert re.fullmatch(r"python:3\.13\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", default[1])


def test_every_service_is_hardened_bounded_and_comes_back() -> None:
    seen = set()
    for path in FILES:
        for name, service in compose(path)["services"].items():
            if "image" not in service or name in seen or path.name == "compose.seaweedfs.yaml":
                continue
            if path.name != "compose.yaml" and name in compose(ROOT / "compose.yaml")["services"]:
                continue
            seen.add(name)
            assert service["read_only"], name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert {"mem_limit", "cpus", "pids_limit", "restart"} <= service.keys(), name
            assert all("size=" in mount for mount in service.get("tmpfs", ())), name
            assert not service["image"].endswith(":latest"), name
            for port in service.get("ports", ()):
                assert port.startswith("127.0.0.1:"), name
    assert {"redis", "minio", "vllm", "prometheus", "grafana"} <= seen


def test_redis_has_no_way_out() -> None:
    services = compose(ROOT / "compose.yaml")["services"]
    networks = yaml.safe_load((ROOT / "compose.yaml").read_text().split("\nvolumes:")[0])[
        "networks"
    ]
    assert networks["inside"] == {"internal": True}
    assert [
        n for n in ("redis", "students", "bucket") if services[n]["networks"] != ["inside"]
    ] == []


def test_only_minio_and_who_makes_its_user_see_its_admin_keys() -> None:
    services = compose(ROOT / "compose.yaml")["services"]
    seers = [n for n, s in services.items() if any("s3-admin" in v for v in s.get("volumes", ()))]
    assert sorted(seers) == ["bucket", "minio", "secrets"]
