"""Every message of a job delivered three times, to two workers of each kind."""

from __future__ import annotations

import random
import time

from qcrd.records.job import Stage
from qcrd.runtime.jobs.queue import CeleryJobQueue, create_celery_app
from tests.survival.stack.runs import Calm, Data, begin, check
from tests.survival.stack.system import ASSEMBLERS, TRAINERS, System

AGAIN = 2
REFUSED = "no claimable job for stage "


def test_messages_delivered_again_change_nothing(
    system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    queue = CeleryJobQueue(create_celery_app(system.redis_settings))
    workers = [system.parts[name] for name in (*ASSEMBLERS, *TRAINERS)]
    stages = [Stage.ASSEMBLING, Stage.TRAINING] * AGAIN
    rng.shuffle(stages)
    moments = sorted(rng.uniform(0, calm.seconds) for _ in stages)
    with system.also(ASSEMBLERS[1], TRAINERS[1]):
        before = sum(worker.count(REFUSED) for worker in workers)
        run = begin(system, data, rng)
        for moment, stage in zip(moments, stages, strict=True):
            time.sleep(max(0.0, moment - run.age()))
            queue.send(stage, run.id)
            print(f"sent {stage.value} again after {run.age():.2f} s")
        check(run, calm)
        time.sleep(0.5)  # for what came last and has nothing to say to the job
        refused = sum(worker.count(REFUSED) for worker in workers) - before
    assert refused >= len(stages), f"of {len(stages)} deliveries too many only {refused} were idle"
