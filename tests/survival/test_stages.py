"""kill -9 of the trainer's worker in each of its stages."""

from __future__ import annotations

import random
import time

import pytest

from qcrd.records.job import Stage
from tests.survival.stack.processes import freeze, thaw
from tests.survival.stack.runs import Calm, Data, Run, begin, check
from tests.survival.stack.system import System, until

TRIES = 8
"""Evaluating and publishing take milliseconds here, so a try may come too late for them."""
POLL_SECONDS = 0.002
"""Between two looks at a job's stage: without them the looks take a core of their own."""


@pytest.mark.parametrize("stage", [Stage.TRAINING, Stage.EVALUATING, Stage.PUBLISHING])
def test_a_trainer_killed_in_a_stage_changes_nothing(
    stage: Stage, system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    for _ in range(TRIES):
        run = begin(system, data, rng)
        killed_in = kill_in(run, stage, calm, rng)
        check(run, calm)
        print(f"killed the trainer in stage {killed_in}; ended after {run.age():.1f} s")
        if killed_in is stage:
            return
    pytest.fail(f"no kill came while a job was {stage.value}")


def kill_in(run: Run, stage: Stage, calm: Calm, rng: random.Random) -> Stage | None:
    """The stage that the job was really in. While the store is held still, no stage that has
    something to write to it ends."""
    system, trainer = run.system, run.system.parts["trainer"]
    # Found before they are needed: that takes longer than evaluating does.
    store = [] if stage is Stage.TRAINING else system.parts["store"].family()
    until(lambda: reached(run, stage), system, pause=POLL_SECONDS)
    freeze(store)
    try:
        length = calm.begins[Stage.EVALUATING] - calm.begins[Stage.TRAINING]
        time.sleep(rng.uniform(0.0, length if stage is Stage.TRAINING else 0.5))
        trainer.kill()
        run.disturbed.append(time.time())
        return system.job(run.id).stage
    finally:
        thaw(store)


def reached(run: Run, stage: Stage) -> bool:
    order = list(Stage)
    now = run.system.job(run.id).stage
    return now is not None and order.index(now) >= order.index(stage)
