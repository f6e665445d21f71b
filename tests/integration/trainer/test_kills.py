"""Training under kill -9 and SIGTERM at moments nobody chose: nothing is lost, nothing differs.

QCRD_KILLS sets how often (3 unless told); QCRD_KILL_SEED sets the moments.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from qcrd.records.job import Job, JobStatus
from qcrd.records.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.storage.store import read_object
from tests.integration.site import Site, spec, training_process, when

KILLS = int(os.environ.get("QCRD_KILLS", "3"))
SEED = int(os.environ.get("QCRD_KILL_SEED", "0"))


def alone() -> JobSpec:
    """The method itself, without baselines."""
    made = spec(iterations=3)
    return made.model_copy(update={"settings": made.settings.model_copy(update={"baselines": ()})})


def student(site: Site, job: Job) -> bytes:
    assert job.status is JobStatus.SUCCEEDED, (job.status, job.failure)
    return read_object(site.store, keys.model_prefix(job.model or "") + "model.safetensors")


def steps(site: Site, job_id: str) -> list[int]:
    """The steps that the job's metrics events tell of, in the order of the log."""
    events = site.deps.events.read(job_id, None, 1000)
    return [event.data["step"] for event in events if "loss" in event.data]


def signal_after(site: Site, job_id: str, seconds: float, number: int) -> threading.Thread:
    """Send `number` to the training process `seconds` after the job's first word from it."""

    def send() -> None:
        time.sleep(seconds)
        if (process := training_process()) is not None:
            process.send_signal(number)

    return when(lambda: bool(site.messages(job_id)), send)


@pytest.mark.timeout(120 + 60 * KILLS)
def test_a_student_killed_at_random_moments_ends_bit_for_bit_the_same(site: Site) -> None:
    calm = site.submit(alone())
    begun: list[float] = []
    watch = when(lambda: bool(site.messages(calm)), lambda: begun.append(time.monotonic()))
    whole = student(site, site.work(calm))
    watch.join()
    took = time.monotonic() - begun[0]
    rng = random.Random(SEED)
    killed = resumed = 0
    for _ in range(KILLS):
        job_id = site.submit(alone())
        moment = rng.uniform(0, took)
        killer = signal_after(site, job_id, moment, signal.SIGKILL)
        job = site.work(job_id)
        killer.join()
        if job.status is JobStatus.RUNNING:
            killed += 1
            job = site.work(job_id)
        assert student(site, job) == whole, f"killed after {moment:.3f} s of {took:.3f} s"
        told = steps(site, job_id)
        assert told == sorted(set(told)), "a step was told twice"
        resumed += any("resumed after step" in message for message in site.messages(job_id))
    assert killed, "every run had ended before its kill"
    print(f"{KILLS} runs, {killed} killed, {resumed} of them resumed from a checkpoint")


def test_sigterm_checkpoints_at_the_next_step_within_five_seconds(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint is due by the clock, so what the second run goes on from is SIGTERM's own."""
    monkeypatch.setenv("QCRD_CHECKPOINT_SECONDS", "3600")
    whole = student(site, site.work(site.submit(alone())))
    job_id = site.submit(alone())
    asked: list[float] = []

    def terminate() -> None:
        process = training_process()
        assert process is not None
        asked.append(time.monotonic())
        process.send_signal(signal.SIGTERM)

    killer = when(lambda: bool(steps(site, job_id)), terminate)
    job = site.work(job_id)
    took = time.monotonic() - asked[0]
    killer.join()
    assert job.status is JobStatus.RUNNING
    assert job.attempt == 0
    assert took < 5
    job = site.work(job_id)
    assert any("resumed after step" in message for message in site.messages(job_id))
    assert student(site, job) == whole
