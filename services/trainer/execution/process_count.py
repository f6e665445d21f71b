"""How many processes train a job on this machine, where that is left to the worker.

On a CPU the threads of one process wait for each other at every layer, processes once a step. Each
holds the student, so there are as many as the memory has room for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qcrd.errors import Invalid
from qcrd.planning.plan import Lengths, Machine, make_plan
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime.machine import count_cores, read_available_memory

MAX_PROCESSES = 8
MEMORY_SHARE = 1 / 3
"""Of what is free, that all processes may take beyond what one alone would."""
PROCESS_BYTES = 2**29
"""Of Python, torch and transformers."""
ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg")
"""Device files of GPUs. torch, which knows them, is not asked: this worker never loads it."""


def find_gpu(devices: Path = Path("/dev")) -> bool:
    return any(path for pattern in ACCELERATORS for path in devices.glob(pattern))


def choose_processes(
    spec: JobSpec,
    models: Path,
    *,
    has_gpu: bool,
    cores: int | None = None,
    free_bytes: int | None = None,
) -> int:
    """One for each of the `cores`, as far as there is memory for what `spec` trains. 1 beside a
    GPU, for a loss that was never tried on several, and for a base whose folder is not in `models`:
    one from a hub, or a student."""
    if has_gpu or spec.settings.loss.contrast != "margin":
        return 1
    cores = min(cores or count_cores(), MAX_PROCESSES)
    free_bytes = free_bytes or read_available_memory() or 0
    try:
        config = json.loads((models / spec.model / "config.json").read_text(encoding="utf-8"))
        needed = {count: _estimate_bytes(spec, config, count) for count in range(1, cores + 1)}
    except (OSError, ValueError, AttributeError, Invalid):  # the base cannot be counted
        return 1
    room = free_bytes * MEMORY_SHARE
    return max(count for count, size in needed.items() if count == 1 or size - needed[1] <= room)


def _estimate_bytes(spec: JobSpec, config: dict[str, Any], processes: int) -> int:
    """Bytes that all processes take together, at the spec's limits: of two counts the difference is
    nearly exact, as what a step's tokens take is shared out among them."""
    memory = make_plan(spec, config, Machine(has_bf16=False), Lengths(1, 1, 1)).memory
    shared = memory.card["activations"] + memory.card["logits"]
    own = PROCESS_BYTES + memory.card_bytes - shared + sum(memory.host.values())
    return processes * own + shared
