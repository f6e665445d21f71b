"""All GPU stages on a CPU with tiny models, by the command of docs/gpu.md."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(600)
def test_the_rehearsal_goes_through_every_stage() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["make", "gpu", "REHEARSE=1", f"GPU_PYTHON={sys.executable}"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=580,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert "smoke: all 14 parts are there" in ended.stdout
    assert "fully-shard: kept from an earlier call" in ended.stdout
    assert "speed: all" in ended.stdout
    assert "negatives matter (R4 - R0): cannot tell" in ended.stdout
    assert "| reasoned | 1 |" in ended.stdout
    assert "1 of 1 seeds are whole" in ended.stdout
    assert "A rehearsal with tiny models" in ended.stdout
