"""Decide: the registered experiment, where this release has it as `benchmarks.decide`."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path

from benchmarks.gpu.results import CANNOT, WHOLE

SECONDS = 540.0
MODULE = "benchmarks.decide"


def run(
    folder: Path,
    *,
    device: str,
    limit: float,
    rehearsed: bool,
    data: Path | None = None,
    models: Path | None = None,
    module: str = MODULE,
) -> int:
    """Call `main` of `module` with `--out`, `--device`, `--limit`, `--rehearse` and where data and
    models are; its exit code. It saves as it goes, into `folder`."""
    if find_spec(module) is None:
        print(f"decide: this release has no {module}, the registered experiment; nothing was run")
        return CANNOT
    arguments = ["--out", str(folder), "--device", device, "--limit", f"{limit:.0f}"]
    for name, path in (("--data", data), ("--models", models)):
        arguments += [] if path is None else [name, str(path)]
    code = importlib.import_module(module).main(arguments + ["--rehearse"] * rehearsed)
    return WHOLE if code is None else int(code)
