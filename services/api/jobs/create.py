"""From a request's body to a queued job: read, checked against files and settings, kept, sent."""

from __future__ import annotations

import time
from typing import Any

from qcrd.errors import Conflict, Forbidden
from qcrd.records.api_keys import ApiKey, ApiKeyScope
from qcrd.records.base import parse_record
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.spec import JobSpec, Priority
from qcrd.runtime import keys, telemetry
from qcrd.runtime.storage.store import write_record
from services.api.dependencies import Gateway
from services.api.http.idempotency import derive_id
from services.api.jobs.enqueueing import enqueue_or_leave_to_reaper
from services.api.jobs.shared_rationales import check_shared_set
from services.api.jobs.validation import validate_job_spec
from services.api.jobs.validation_cache import ValidationCache


def create_job(
    gateway: Gateway, body: dict[str, Any], caller: ApiKey, cache: ValidationCache
) -> Job:
    spec = parse_job_spec(body)
    check_priority(spec, caller)
    validate_job_spec(spec, gateway.store, gateway.settings, cache)
    check_shared_set(spec, gateway.jobs)
    return submit_job(gateway, derive_id("ftjob"), spec, caller)


def check_priority(spec: JobSpec, caller: ApiKey, param: str = "priority") -> None:
    if spec.priority is Priority.HIGH and not caller.has_scope(ApiKeyScope.ADMIN):
        raise Forbidden(
            f"`{param}`: `high` goes before everybody's jobs, which only a key with the scope "
            "`admin` may ask for",
            param=param,
            code="insufficient_scope",
        )


def submit_job(gateway: Gateway, job_id: str, spec: JobSpec, caller: ApiKey) -> Job:
    """Keep and send a job whose spec was checked.

    The same job under the same id again is the first one, which an earlier try had created before
    its gateway died; `Conflict` when the id is another job's.
    """
    job = Job(
        id=job_id,
        spec=spec,
        owner=caller.name,
        running_limit=caller.running_jobs,
        request_id=telemetry.current_request_id(),
        status=JobStatus.QUEUED,
        created_at=time.time(),
        budget=spec.budget,
    )
    # First, as it may fail without harm: once the job exists, an error would have it created again.
    write_record(gateway.store, keys.job_spec_key(job.id), spec)
    try:
        gateway.jobs.create(job)
    except Conflict:
        existing = gateway.jobs.get(job_id)
        if existing.spec != spec:
            raise
        job = existing
    with enqueue_or_leave_to_reaper(f"job {job.id}"):
        data = {"status": JobStatus.QUEUED.value}
        gateway.events.append(job.id, "job created", data=data, once="created")
        gateway.queue.send(Stage.ASSEMBLING, job.id)
    return job


def parse_job_spec(body: dict[str, Any]) -> JobSpec:
    """Null stands for a field that is not given, as OpenAI's clients may send it."""
    fields = {name: value for name, value in body.items() if value is not None}
    return parse_record(JobSpec, fields)
