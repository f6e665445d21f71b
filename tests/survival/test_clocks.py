"""A clock that is set by an hour in the middle of a job, and set right again."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qcrd.records.job import Stage
from tests.survival.conftest import REPETITIONS
from tests.survival.stack.clocks import FakeClock, swept_shared_memory
from tests.survival.stack.runs import Calm, Data, Run, begin, begun, check
from tests.survival.stack.system import System, until
from tests.survival.stack.variants import with_variables

HOUR = 3600.0
SERVICES = ("gateway", "assembler", "trainer")
JUMPS = ("services", "server")
LEASES = {"QCRD_HEARTBEAT_SECONDS": "2", "QCRD_LEASE_SECONDS": "10"}
"""Longer than elsewhere here: the library that sets the clocks makes its processes slower."""


@dataclass(frozen=True)
class Clocks:
    """Of the services, together, and of the Redis server."""

    services: FakeClock
    server: FakeClock

    def set(self, which: str, offset: float) -> None:
        getattr(self, which).set(offset)


@pytest.fixture(scope="module")
def clocks(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clocks]:
    folder: Path = tmp_path_factory.mktemp("clocks")
    made = Clocks(FakeClock(folder / "services"), FakeClock(folder / "server"))
    theirs = dict.fromkeys(SERVICES, made.services.variables | LEASES)
    with swept_shared_memory(), with_variables(system, {"valkey": made.server.variables, **theirs}):
        yield made
        made.set("services", 0.0)
        made.set("server", 0.0)


@pytest.mark.parametrize("which", JUMPS)
def test_a_clock_that_is_set_changes_nothing(
    which: str, clocks: Clocks, system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    """To and fro at two moments of one job: an hour ahead or behind, and right again."""
    moments = sorted(rng.uniform(0.0, 0.9 * calm.seconds) for _ in range(2))
    run = begin(system, data, rng)
    try:
        for moment, offset in zip(moments, (rng.choice((HOUR, -HOUR)), 0.0), strict=True):
            set_at(run, moment, which, offset, clocks)
        check(run, calm)
    finally:
        clocks.set(which, 0.0)
    assert run.system.job(run.id).attempt == 0, "a living worker lost its job"
    assert max(run.system.job(run.id).seconds.values()) < HOUR / 2
    print(f"ended after {run.age():.1f} s")


@pytest.mark.skipif(REPETITIONS == 1, reason="QCRD_SURVIVAL=2 runs it: it waits for leases to end")
@pytest.mark.parametrize("offset", [HOUR, -HOUR], ids=["ahead", "behind"])
def test_a_worker_killed_when_the_servers_clock_was_set_is_replaced(
    offset: float, clocks: Clocks, system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    """The clock is set while the worker holds the job, and stays so."""
    stage = rng.choice((Stage.ASSEMBLING, Stage.TRAINING))
    run = begin(system, data, rng)
    try:
        until(lambda: begun(run, stage), system, pause=0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        set_at(run, run.age(), "server", offset, clocks)
        if (worker := system.holder(run.id)) is not None:
            worker.kill()
            run.disturbed.append(time.time())
            print(f"killed {worker.name} after {run.age():.2f} s")
        check(run, calm)
    finally:
        clocks.set("server", 0.0)
    print(f"ended after {run.age():.1f} s")


def set_at(run: Run, age: float, which: str, offset: float, clocks: Clocks) -> None:
    time.sleep(max(0.0, age - run.age()))
    clocks.set(which, offset)
    stage = run.system.job(run.id).stage
    print(f"the clock of the {which} is {offset:+.0f} s after {run.age():.2f} s, in stage {stage}")
