"""From a request's body to a queued job: read, checked against files and settings, kept, sent."""

from __future__ import annotations

import logging
import time
from typing import Any

from qcrd.errors import Transient
from qcrd.records import Job, JobSpec, Stage, Status, parse
from qcrd.runtime import keys
from qcrd.runtime.store import write_record
from services.api.checks import check
from services.api.gateway import Gateway
from services.api.share import check_shared

log = logging.getLogger(__name__)


def create(here: Gateway, body: dict[str, Any]) -> Job:
    spec = read_spec(body)
    check(spec, here.store, here.settings)
    check_shared(spec, here.jobs)
    return submit(here, keys.new_id("ftjob"), spec)


def submit(here: Gateway, job_id: str, spec: JobSpec) -> Job:
    """Keep and send a job whose spec was checked. `Conflict` when the id is taken."""
    job = Job(id=job_id, spec=spec, status=Status.QUEUED, created_at=time.time())
    write_record(here.store, keys.job_spec_key(job.id), spec)
    here.jobs.create(job)
    here.events.append(job.id, "job created", data={"status": job.status.value})
    try:
        here.queue.send(Stage.ASSEMBLING, job.id)
    except Transient as error:
        # The job exists: an error now would have the client create it again.
        log.warning("job %s waits for the reaper to send it: %s", job.id, error)
    return job


def read_spec(body: dict[str, Any]) -> JobSpec:
    """Null stands for a field that is not given, as OpenAI's clients may send it."""
    given = {name: value for name, value in body.items() if value is not None}
    return parse(JobSpec, given)
