"""Two gateways, two workers of each kind, several jobs, and a kill of one of each pair."""

from __future__ import annotations

import random
import time

from tests.survival.stack.runs import Calm, Data, begin, check
from tests.survival.stack.system import ASSEMBLERS, GATEWAYS, TRAINERS, System

JOBS = 3


def test_two_of_everything_share_several_jobs(
    system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    with system.also(GATEWAYS[1], ASSEMBLERS[1], TRAINERS[1]):
        runs = [begin(system, data, rng, gateways=1 + job % 2) for job in range(JOBS)]
        victims = [rng.choice(pair) for pair in (GATEWAYS, ASSEMBLERS, TRAINERS)]
        moments = sorted(rng.uniform(0.0, 1.5 * calm.seconds) for _ in victims)
        for moment, victim in zip(moments, rng.sample(victims, len(victims)), strict=True):
            time.sleep(max(0.0, moment - runs[0].age()))
            system.parts[victim].kill()
            for run in runs:
                run.disturbed.append(time.time())
            print(f"killed {victim} after {runs[0].age():.2f} s")
        for run in runs:
            check(run, calm)
    print(f"{JOBS} jobs ended after {runs[0].age():.1f} s")
