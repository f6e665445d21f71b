"""A training process that stands still while its worker goes on renewing the lease."""

from __future__ import annotations

import signal

from qcrd.records.job import JobStatus
from tests.integration.site import Site, spec, training_processes, when


def test_a_stopped_training_process_is_killed_and_its_job_goes_on(site: Site) -> None:
    job_id = site.submit(spec(iterations=2))

    def stop() -> None:
        for process in training_processes():
            process.send_signal(signal.SIGSTOP)

    stopper = when(lambda: bool(training_processes()), stop)
    job = site.work(job_id, stall_seconds=5)
    stopper.join()
    assert (job.status, job.attempt) == (JobStatus.RUNNING, 1)
    assert any("made no progress" in message for message in site.messages(job_id))
    assert training_processes() == []
    job = site.work(job_id, stall_seconds=300)
    assert job.status is JobStatus.SUCCEEDED, job.failure
