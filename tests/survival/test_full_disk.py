"""A store whose disk is full: the job waits, and goes on when there is room."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcrd.records.job import Stage
from tests.conftest import unavailable
from tests.survival.stack.runs import Calm, Data, begin, check
from tests.survival.stack.system import System, until


def test_a_full_disk_is_waited_for(
    system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    if not os.path.ismount(system.store_folder):
        unavailable("a disk of its own for the store, which takes the right to mount a tmpfs,")
    run = begin(system, data, rng)
    after = rng.uniform(0.0, 0.8 * calm.begins[Stage.EVALUATING])
    time.sleep(max(0.0, after - run.age()))
    with restarted(system), filled(system.store_folder):
        run.disturbed.append(time.time())
        print(f"the disk is full after {run.age():.2f} s, in stage {system.job(run.id).stage}")
        waiting = until(lambda: system.job(run.id).waiting or run.follower.over, system)
        print(f"after {run.age():.2f} s the job waits: {waiting}")
        assert waiting is True or "object store" in waiting
    check(run, calm)
    print(f"ended after {run.age():.1f} s")


@contextmanager
def restarted(system: System) -> Iterator[None]:
    """SeaweedFS writes to no volume again that once had no room, until it is started anew."""
    try:
        yield
    finally:
        system.parts["store"].kill()


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """Not a byte is free on the file system of `folder` within the block."""
    ballast = folder / "ballast"
    block = bytes(2**20)
    with ballast.open("wb", buffering=0) as file:
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]
    try:
        yield
    finally:
        ballast.unlink()
