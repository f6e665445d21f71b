"""The cores and the memory that this process may use."""

from __future__ import annotations

import os
import re
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
"""Of a container, version 2: its limits in `memory.max` and `cpu.max`, where there are any."""


def count_cores(cgroup: Path = CGROUP) -> int:
    # macOS has no affinity.
    allowed = getattr(os, "sched_getaffinity", None)
    cores = len(allowed(0)) if allowed else os.cpu_count() or 1
    try:
        quota, period = map(int, (cgroup / "cpu.max").read_text().split())
    except (OSError, ValueError):  # there is none, or it is "max"
        return cores
    return max(1, min(cores, quota // period))


def read_available_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes that a new process may take without others being swapped out; None where the kernel
    does not say."""
    known = [free for free in (_read_free(meminfo), _read_limit_left(cgroup)) if free is not None]
    return min(known, default=None)


def _read_free(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")), None)


def _read_limit_left(cgroup: Path) -> int | None:
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text() for name in ("max", "current"))
        cached = re.search(r"^inactive_file (\d+)", (cgroup / "memory.stat").read_text(), re.M)
        return max(0, int(limit) - int(used) + int(cached[1] if cached else 0))
    except (OSError, ValueError):  # there is none, or it is "max"
        return None
