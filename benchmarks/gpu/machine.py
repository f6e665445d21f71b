"""The machine that a stage runs on: its versions, its card, and what it lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

MODULES: Mapping[str, str] = {
    "torch": "torch",
    "transformers": "transformers",
    "tokenizers": "tokenizers",
    "safetensors": "safetensors",
    "numpy": "numpy",
    "scipy": "scipy",
    "peft": "peft",
    "pydantic": "pydantic",
    "pydantic_settings": "pydantic-settings",
    "redis": "redis",
    "minio": "minio",
    "zstandard": "zstandard",
    "prometheus_client": "prometheus-client",
    "llguidance": "llguidance",
    "cachetools": "cachetools",
}
"""Modules that the stages import, and the packages that bring them."""
FLOORS: Mapping[str, tuple[int, int]] = {"torch": (2, 11), "transformers": (5, 17)}
"""Oldest releases that method and trainer run on."""
PEAK_FLOPS = 989e12
"""Dense bf16 operations per second of an H100 (SXM) and an H200: NVIDIA's data sheets."""
CPU = "CPU"


@dataclass(frozen=True)
class Machine:
    """`card` is the GPU's name, or `CPU`; `commit` that of the working tree, None where it has no
    history."""

    card: str
    device: str
    memory_gib: float | None
    cuda: str | None
    torch: str
    transformers: str
    python: str
    cores: int
    commit: str | None

    @property
    def peak_flops(self) -> float | None:
        """What utilisation is a share of; None for a card whose peak is not stated here."""
        return PEAK_FLOPS if any(name in self.card for name in ("H100", "H200")) else None


def list_versions() -> list[str]:
    """A line for each package, without importing any of them: that takes seconds."""
    lines = [f"python {platform.python_version()}"]
    for module, package in MODULES.items():
        lines.append(
            f"{package} {_find_version(package)}" if find_spec(module) else f"no {package}"
        )
    return lines


def find_missing(floors: Mapping[str, tuple[int, int]] = FLOORS) -> list[str]:
    """What is absent or too old, each with what would mend it."""
    missing = [
        f"{package} is not installed: carry its wheel, docs/gpu.md says how"
        for module, package in MODULES.items()
        if find_spec(module) is None
    ]
    for package, floor in floors.items():
        version = _find_version(package)
        if version is not None and _read_release(version) < floor:
            wanted = ".".join(map(str, floor))
            missing.append(f"{package} {version} is too old: {wanted} or newer is needed")
    return missing


def _find_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read_release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])


def describe(*, use_gpu: bool) -> Machine:
    """The machine as torch sees it. Without `use_gpu` it is its CPU, whatever card it has."""
    import torch
    import transformers

    has_card = use_gpu and torch.cuda.is_available()
    card = torch.cuda.get_device_name(0) if has_card else CPU
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if has_card else None
    return Machine(
        card=card,
        device="cuda" if has_card else "cpu",
        memory_gib=None if memory is None else round(memory, 1),
        cuda=torch.version.cuda if has_card else None,
        torch=torch.__version__,
        transformers=transformers.__version__,
        python=platform.python_version(),
        cores=os.cpu_count() or 1,
        commit=_read_commit(["git", "rev-parse", "--short", "HEAD"]),
    )


def _read_commit(command: Sequence[str]) -> str | None:
    try:
        completed: Any = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return completed.stdout.strip() or None
