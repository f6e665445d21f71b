"""Training under kill -9 and SIGTERM at moments nobody chose: nothing is lost, nothing differs.

QCRD_KILLS sets how often (2 unless told); QCRD_KILL_SEED sets the moments.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

from qcrd.records.job import Job, JobStatus
from qcrd.runtime import keys
from qcrd.runtime.storage.store import read_object
from tests.integration.site import Site, spec, training_process, when

KILLS = int(os.environ.get("QCRD_KILLS", "2"))
SEED = int(os.environ.get("QCRD_KILL_SEED", "0"))


def student(site: Site, job: Job) -> bytes:
    assert job.status is JobStatus.SUCCEEDED, (job.status, job.failure)
    return read_object(site.store, keys.model_prefix(job.model or "") + "model.safetensors")


def steps(site: Site, job_id: str) -> list[int]:
    """The steps that the job's metrics events tell of, in the order of the log."""
    events = site.deps.events.read(job_id, None, 1000)
    return [event.data["step"] for event in events if "loss" in event.data]


def kill_after(site: Site, job_id: str, events: int, seconds: float) -> threading.Thread:
    """Kill the training process `seconds` after the job's event of that number."""

    def kill() -> None:
        time.sleep(seconds)
        if (process := training_process()) is not None:
            process.send_signal(signal.SIGKILL)

    return when(lambda: len(site.messages(job_id)) >= events, kill)


@pytest.mark.timeout(240 + 120 * KILLS)
def test_a_student_killed_at_random_moments_ends_bit_for_bit_the_same(
    site: Site, calm: Job
) -> None:
    whole = student(site, calm)
    total = len(site.messages(calm.id))
    rng = random.Random(SEED)
    killed = resumed = 0
    for _ in range(KILLS):
        job_id = site.submit(spec())
        events, seconds = rng.randint(1, total - 1), rng.uniform(0, 0.2)
        killer = kill_after(site, job_id, events, seconds)
        job = site.work(job_id)
        killer.join()
        if job.status is JobStatus.RUNNING:
            killed += 1
            job = site.work(job_id)
        assert student(site, job) == whole, f"killed {seconds:.3f} s after event {events}"
        told = steps(site, job_id)
        assert told == sorted(set(told)), "a step was told twice"
        resumed += any("resumed after step" in message for message in site.messages(job_id))
    assert killed, "every run had ended before its kill"
    print(f"{KILLS} runs, {killed} killed, {resumed} of them resumed from a checkpoint")


def test_sigterm_checkpoints_at_the_next_step(
    site: Site, calm: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No checkpoint is due by the clock, so what the second run goes on from is SIGTERM's own."""
    monkeypatch.setenv("QCRD_CHECKPOINT_SECONDS", "3600")
    job_id = site.submit(spec())

    def terminate() -> None:
        process = training_process()
        assert process is not None
        process.send_signal(signal.SIGTERM)

    killer = when(lambda: bool(steps(site, job_id)), terminate)
    job = site.work(job_id)
    killer.join()
    assert job.status is JobStatus.RUNNING
    assert job.attempt == 0
    job = site.work(job_id)
    assert any("resumed after step" in message for message in site.messages(job_id))
    assert student(site, job) == student(site, calm)
