"""A worker that stands still past its lease, and wakes when another one has its job."""

from __future__ import annotations

import random
import time

import pytest

from qcrd.records import Stage
from tests.survival.processes import Part, thaw
from tests.survival.runs import Calm, Data, Run, begin, check
from tests.survival.system import ASSEMBLERS, LEASE_SECONDS, TRAINERS, System, until

STOPPED = ('"stopped: ', '"nothing written: ')
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
        run = begin(system, data, rng)
        until(lambda: system.job(run.id).stage is stage, system, pause=0.01)
        time.sleep(rng.uniform(0.0, 0.8 * length))
        stalled, heard = stand_still(run, rng)
        check(run, calm)
        # It may wake when the job is long over, and then be busy with telling why it stops.
        time.sleep(1.0)
    assert any(stalled.said(words, since=heard) for words in STOPPED), stalled.tail()
    print(f"ended after {run.age():.1f} s")


def stand_still(run: Run, rng: random.Random) -> tuple[Part, int]:
    """Stop the worker that has the job, and wake it after another one took the job from it.

    That worker, and how long its log was.
    """
    worker = run.system.holder(run.id)
    assert worker is not None, "nobody holds the job"
    token = run.system.job(run.id).lease.token
    frozen, heard = worker.freeze(), worker.length()
    run.disturbed.append(time.time())
    print(f"{worker.name} stands still after {run.age():.2f} s")
    try:
        until(lambda: run.system.job(run.id).lease.token > token, run.system, pause=0.01)
        time.sleep(rng.uniform(0.0, 2 * LEASE_SECONDS))
    finally:
        thaw(frozen)
    print(f"{worker.name} wakes after {run.age():.2f} s")
    return worker, heard
