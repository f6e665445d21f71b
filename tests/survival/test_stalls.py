"""A worker that stands still past its lease, and wakes when another one has its job; a training
process that stands still while its worker goes on."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from functools import partial

import psutil
import pytest

from qcrd.records.job import Stage
from tests.survival.conftest import REPETITIONS
from tests.survival.stack.processes import Part, freeze, thaw
from tests.survival.stack.runs import Calm, Data, Run, begin, begun, check
from tests.survival.stack.system import ASSEMBLERS, LEASE_SECONDS, TRAINERS, System, until
from tests.survival.stack.variants import with_variables

STALL_SECONDS = 60
"""Longer than a training process takes to its first step, on a busy machine too."""
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


@pytest.fixture(scope="module")
def impatient(system: System) -> Iterator[System]:
    """With a trainer that waits for a training process no longer than `STALL_SECONDS`."""
    variables = {"QCRD_STALL_SECONDS": str(STALL_SECONDS)}
    with with_variables(system, {"trainer": variables}):
        yield system


@pytest.mark.skipif(
    REPETITIONS == 1, reason="QCRD_SURVIVAL=2 runs it; tests/integration/trainer has a shorter one"
)
def test_a_training_process_that_stands_still_is_killed_and_the_job_tried_again(
    impatient: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    length = calm.begins[Stage.EVALUATING] - calm.begins[Stage.TRAINING]
    for _ in range(TRIES):
        run = begin(impatient, data, rng)
        until(partial(begun, run, Stage.TRAINING), impatient, pause=0.01)
        time.sleep(rng.uniform(0.0, 0.8 * length))
        stopped = stop_training(run)
        check(run, calm)
        print(f"ended after {run.age():.1f} s")
        if stopped is not None:
            break
    else:
        pytest.fail("no training process stood still before its job was over")
    assert impatient.job(run.id).attempt == 1
    told = [event.message for event in impatient.all_events(run.id)]
    assert any("made no progress" in message for message in told), told
    assert not stopped.is_running(), "the stopped process is still there"
    left = [each for each in impatient.parts["trainer"].family() if each.status() == "stopped"]
    assert left == []


def stop_training(run: Run) -> psutil.Process | None:
    """SIGSTOP to the process that trains the job; None when it does not train any more."""
    process = until(lambda: run.system.training_process() or run.follower.over, run.system)
    if not isinstance(process, psutil.Process):
        return None
    try:
        freeze([process])
    except psutil.NoSuchProcess:
        return None
    run.disturbed.append(time.time())
    print(f"the training process stands still after {run.age():.2f} s")
    return process


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
