"""A worker that stands still past its lease, and wakes when another one has its job."""

from __future__ import annotations

import random
import time
from functools import partial

import pytest

from qcrd.records.job import Stage
from tests.survival.processes import Part, thaw
from tests.survival.runs import Calm, Data, Run, begin, check
from tests.survival.system import ASSEMBLERS, LEASE_SECONDS, TRAINERS, System, until

TRIES = 4
"""A job may be faster than the undisturbed one and over before its moment has come."""
STOPPED = ('"stage interrupted: ', '"lease lost, stage stopped: ', '"outcome not written: ')
"""How a worker's log line begins that says it was refused."""


@pytest.mark.parametrize("kind", [ASSEMBLERS, TRAINERS], ids=["assembler", "trainer"])
def test_a_worker_that_wakes_past_its_lease_is_refused(
    kind: tuple[str, str], system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    stage, following = (
        (Stage.ASSEMBLING, Stage.TRAINING)
        if kind is ASSEMBLERS
        else (Stage.TRAINING, Stage.EVALUATING)
    )
    length = calm.begins[following] - calm.begins[stage]
    with system.also(kind[1]):
        for _ in range(TRIES):
            run = begin(system, data, rng)
            until(partial(begun, run, stage), system, pause=0.01)
            time.sleep(rng.uniform(0.0, 0.8 * length))
            stalled = stand_still(run, rng)
            check(run, calm)
            print(f"ended after {run.age():.1f} s")
            if stalled is not None:
                break
        else:
            pytest.fail(f"no {kind[0]} stood still before its job was over")
        # It may wake when the job is long over, and then be busy with telling why it stops.
        worker, heard = stalled
        until(lambda: any(worker.said(words, since=heard) for words in STOPPED), system)


def begun(run: Run, stage: Stage) -> bool:
    return run.system.holder(run.id) is not None and run.system.job(run.id).stage is stage


def stand_still(run: Run, rng: random.Random) -> tuple[Part, int] | None:
    """Stop the worker that has the job, and wake it after another one took the job from it.

    That worker, and how long its log was; None when nobody has the job any more.
    """
    worker = run.system.holder(run.id)
    if worker is None:
        return None
    token = run.system.job(run.id).lease.token
    frozen, heard = worker.freeze(), worker.length()
    run.disturbed.append(time.time())
    print(f"{worker.name} stands still after {run.age():.2f} s")
    try:
        until(lambda: run.system.job(run.id).lease.token > token, run.system, pause=0.01)
        time.sleep(rng.uniform(0.0, 2 * LEASE_SECONDS))
    finally:
        run.woken.append(time.time())
        thaw(frozen)
    print(f"{worker.name} wakes after {run.age():.2f} s")
    return worker, heard
