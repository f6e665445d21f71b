"""The kernel kills the training process for its memory: SIGKILL, and a count that rises."""

from __future__ import annotations

import itertools
import signal

from qcrd.records.job import Job, JobStatus
from tests.integration.site import Site, spec, training_processes, when


def run_out_of_memory(site: Site, job_id: str) -> Job:
    def kill() -> None:
        for process in training_processes():
            process.send_signal(signal.SIGKILL)

    killer = when(lambda: bool(training_processes()), kill)
    job = site.work(job_id, count_memory_kills=itertools.count().__next__)
    killer.join()
    return job


def test_it_is_tried_once_more_with_smaller_parts_and_then_told_what_to_lower(site: Site) -> None:
    job_id = site.submit(spec())
    job = run_out_of_memory(site, job_id)
    assert (job.status, job.attempt, job.micro_batches) == (JobStatus.RUNNING, 0, 4)
    assert "trying once more, with each step in 4 parts" in (job.waiting or "")
    job = run_out_of_memory(site, job_id)
    assert job.status is JobStatus.FAILED
    assert job.failure is not None
    assert job.failure.code == "out_of_memory"
    assert "lower `method.qcrd.hyperparameters.batch_size` (now 8)" in job.failure.message


def test_with_smaller_parts_the_job_succeeds_and_remembers_them(site: Site) -> None:
    job_id = site.submit(spec(iterations=1))
    run_out_of_memory(site, job_id)
    job = site.work(job_id)
    assert job.status is JobStatus.SUCCEEDED, job.failure
    assert job.micro_batches == 4
