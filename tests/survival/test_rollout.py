"""A rollout, or a node that is drained: SIGTERM, the grace period that the manifests give, SIGKILL.
The job goes on with another worker, and it costs no attempt."""

from __future__ import annotations

import json
import random
import time

from qcrd.records.job import Stage
from qcrd.runtime.jobs.state_machine import TERMINAL
from tests.manifests import pod_templates, render
from tests.survival.stack.processes import Part
from tests.survival.stack.runs import Calm, Data, Run, begin, check
from tests.survival.stack.system import ASSEMBLERS, TRAINERS, System, until

WORKLOADS = {Stage.ASSEMBLING: "api-worker", Stage.TRAINING: "trainer"}


def test_a_job_outlives_the_pods_that_it_is_worked_on_in(
    system: System, data: Data, calm: Calm, rng: random.Random
) -> None:
    drained: list[Part] = []
    with system.also(ASSEMBLERS[1], TRAINERS[1]):
        run = begin(system, data, rng)
        try:
            for stage, workload in WORKLOADS.items():
                drained.append(drain(run, stage, workload))
            check(run, calm)
        finally:
            for part in drained:
                if part.name in (ASSEMBLERS[0], TRAINERS[0]):
                    part.start()  # the others of this session need it
    job = system.job(run.id)
    assert (job.attempt, job.failure) == (0, None)
    messages = [event.message for event in system.all_events(run.id)]
    assert any("resumed after step" in message for message in messages), "no checkpoint was used"


def drain(run: Run, stage: Stage, workload: str) -> Part:
    """Stop the worker that has the job in `stage`, in the middle of it, as a kubelet does; the one
    that was stopped. Returns once another one has the job."""
    pod = pod_templates(render("base"))[workload]["spec"]
    system = run.system
    until(lambda: is_within(run, stage), system, pause=0.01)
    first = system.holder(run.id)
    assert first is not None, f"nobody has the job in stage {stage}"
    run.disturbed.append(time.time())
    code = first.drain(pod["terminationGracePeriodSeconds"])
    print(f"drained {first.name} after {run.age():.1f} s; it ended with {code}")
    assert code is not None, f"{first.name} had to be killed after its grace period"
    until(lambda: system.holder(run.id) not in (None, first), system, pause=0.01)
    return first


def is_within(run: Run, stage: Stage) -> bool:
    """Whether some of the stage's work is done and some is not."""
    job = run.system.job(run.id)
    assert job.status not in TERMINAL, f"it is {job.status} before it was drained in {stage}"
    return job.stage is stage and bool(job.lease.owner) and has_begun(run, stage)


def has_begun(run: Run, stage: Stage) -> bool:
    if stage is Stage.TRAINING:
        return any("loss" in event.data for event in run.system.all_events(run.id))
    lines = run.system.teacher_record.read_text().splitlines()
    return any(call["room"] == run.room for call in map(json.loads, lines))
