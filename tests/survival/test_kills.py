"""kill -9 of each part of the system at a moment nobody chose."""

from __future__ import annotations

import random
import time

import pytest

from qcrd.records.job import Stage
from qcrd.runtime.jobs.state_machine import TERMINAL
from tests.survival.stack.runs import Calm, Data, Run, begin, check
from tests.survival.stack.system import System

TRIES = 5
"""A job may be faster than the undisturbed one; then the next moment is an earlier one."""
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


def moment(part: str, calm: Calm, rng: random.Random, attempt: int) -> float:
    """Seconds from the job's creation, within the part's window, of which each attempt halves what
    the one before had."""
    start, end = WINDOWS[part]
    first = calm.begins[start] if start else 0.0
    last = calm.begins[end] if end else calm.seconds
    return rng.uniform(first, first + (last - first) / 2**attempt)


def kill(run: Run, part: str, after: float) -> bool:
    """`after` seconds from the job's creation; whether the job was still to be disturbed then."""
    time.sleep(max(0.0, after - run.age()))
    job = run.system.job(run.id)
    process = run.system.training_process() if part == "training" else None
    if job.status in TERMINAL or (part == "training" and process is None):
        print(f"{part} was not needed any more, or not yet, after {run.age():.2f} s")
        return False
    (process or run.system.parts[part]).kill()
    run.disturbed.append(time.time())
    print(f"killed {part} after {run.age():.2f} s, in stage {job.stage}")
    return True


@pytest.mark.parametrize("part", WINDOWS)
def test_a_kill_changes_nothing(
    part: str, system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    for attempt in range(TRIES):
        after = moment(part, calm, rng, attempt)
        run = begin(system, data, rng)
        killed = kill(run, part, after)
        check(run, calm)
        print(f"ended after {run.age():.1f} s, {run.follower.connections} connections")
        if killed:
            return
    pytest.fail(f"no kill of {part} came while a job was there")
