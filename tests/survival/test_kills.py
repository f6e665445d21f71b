"""kill -9 of each part of the system at a moment nobody chose."""

from __future__ import annotations

import random
import time

import pytest

from qcrd.records import Stage
from tests.survival.runs import Calm, Data, Run, begin, check
from tests.survival.system import System

WINDOWS: dict[str, tuple[Stage | None, Stage | None]] = {
    "gateway": (None, None),
    "assembler": (None, Stage.TRAINING),
    "trainer": (Stage.TRAINING, None),
    "training": (Stage.TRAINING, None),
    "discriminator": (Stage.TRAINING, None),
    "teacher": (None, Stage.TRAINING),
    "valkey": (None, None),
    "store": (None, None),
}
"""Part -> the stages of the undisturbed run from which and up to which it has work to do."""


def moment(part: str, calm: Calm, rng: random.Random) -> float:
    start, end = WINDOWS[part]
    first = calm.begins[start] if start else 0.0
    last = calm.begins[end] if end else calm.seconds
    return rng.uniform(first, last)


def kill(run: Run, part: str, after: float) -> None:
    """`after` seconds from the job's creation, whatever the job is doing then."""
    time.sleep(max(0.0, after - run.age()))
    stage = run.system.job(run.id).stage
    if part == "training":
        process = run.system.training_process()
        if process is not None:
            process.kill()
    else:
        run.system.parts[part].kill()
    run.disturbed.append(time.time())
    print(f"killed {part} after {run.age():.2f} s, in stage {stage}")


@pytest.mark.parametrize("part", WINDOWS)
def test_a_kill_changes_nothing(
    part: str, system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    after = moment(part, calm, rng)
    run = begin(system, data, rng)
    kill(run, part, after)
    check(run, calm)
    print(f"ended after {run.age():.1f} s, {run.follower.connections} connections")
