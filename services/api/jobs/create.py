"""Creates a job from a request's body: parse, check against files and settings, store, enqueue."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from qcrd.errors import Conflict, Forbidden, Transient
from qcrd.questions.openai_request import translate_request
from qcrd.records.api_keys import ApiKey, ApiKeyScope
from qcrd.records.base import parse_record
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.records.specs.spec import JobSpec, Priority
from qcrd.runtime import keys, telemetry
from qcrd.runtime.jobs.archive.job_archive import save_snapshot
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.storage.store import Store, write_record
from services.api.dependencies import Gateway
from services.api.files import service as files
from services.api.http.idempotency import derive_id
from services.api.jobs.base_defaults import choose_defaults, is_for_new_decoder
from services.api.jobs.checks.budget_checks import check_budget_covers_a_request
from services.api.jobs.checks.length_checks import find_unreadable_lines
from services.api.jobs.checks.spec_limits import check_spec_size
from services.api.jobs.checks.teacher_checks import find_teacher_warning
from services.api.jobs.checks.validation import validate_job_spec
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.enqueueing import enqueue_or_leave_to_reaper
from services.api.jobs.shared_rationales import check_shared_set


def create_job(
    gateway: Gateway, body: dict[str, Any], caller: ApiKey, cache: ValidationCache
) -> Job:
    spec = parse_request(gateway, body)
    check_priority(spec, caller)
    # First: what a job may ask for depends on what its base makes of it.
    spec, defaults = choose_defaults(gateway, spec)
    validate_job_spec(spec, gateway, cache)
    check_shared_set(spec, gateway.jobs)
    check_budget_covers_a_request(gateway, spec)
    warnings = find_creation_warnings(gateway, spec)
    job = submit_job(gateway, derive_id("ftjob"), spec, caller)
    emit_creation_events(gateway, job.id, defaults, warnings)
    return job


def find_creation_warnings(gateway: Gateway, spec: JobSpec) -> dict[str, str]:
    """What its owner should know of a job that is about to be created, by the kind of warning."""
    warnings = {
        "long-lines": find_unreadable_lines(gateway, spec),
        "teacher-found": find_teacher_warning(spec, gateway),
    }
    return {once: warning for once, warning in warnings.items() if warning is not None}


def emit_creation_events(
    gateway: Gateway, job_id: str, defaults: Mapping[str, str], warnings: Mapping[str, str]
) -> None:
    """Tell it in the events of the job, which is there: an error would have it created again."""
    with suppress(Transient):
        for once, told in defaults.items():
            gateway.events.append(job_id, told, once=once)
        for once, warning in warnings.items():
            gateway.events.append(job_id, warning, level="warn", once=once)


def check_priority(spec: JobSpec, caller: ApiKey, param: str = "priority") -> None:
    if spec.priority is Priority.HIGH and not caller.has_scope(ApiKeyScope.ADMIN):
        raise Forbidden(
            f"`{param}`: `high` goes before all other owners' jobs, which only a key with the "
            "scope `admin` may ask for",
            param=param,
            code="insufficient_scope",
        )


def submit_job(gateway: Gateway, job_id: str, spec: JobSpec, caller: ApiKey) -> Job:
    """Store and enqueue a job whose spec was checked.

    The same job under an existing id is returned: an earlier attempt created it before its gateway
    died. `Conflict` when the id is another job's.
    """
    spec = _ask_whole_chats(gateway.store, spec)
    job = Job(
        id=job_id,
        spec=spec,
        owner=caller.name,
        running_limit=caller.running_jobs,
        request_id=telemetry.current_request_id(),
        status=JobStatus.QUEUED,
        created_at=gateway.jobs.now(),
        budget=spec.budget,
    )
    # First, as it may fail without harm: an error once the job exists would create it again.
    write_record(gateway.store, keys.job_spec_key(job.id), spec)
    try:
        gateway.jobs.create(job)
    except Conflict:
        existing = gateway.jobs.get(job_id)
        if existing.spec != spec:
            raise
        job = existing
    if job.status in TERMINAL:
        return job  # it was created long ago, and has been told all about
    save_snapshot(gateway.store, job)
    with enqueue_or_leave_to_reaper(f"job {job.id}"):
        data = {"status": JobStatus.QUEUED.value}
        gateway.events.append(job.id, "job created", data=data, once="created")
        gateway.queue.send(Stage.ASSEMBLING, job.id)
    return job


def _ask_whole_chats(store: Store, spec: JobSpec) -> JobSpec:
    """`spec`, whose student is asked whole conversations where it learns from such."""
    if not files.get_file(store, spec.training_file).data.is_conversation:
        return spec
    task = spec.settings.task.model_copy(update={"conversation": True})
    return spec.model_copy(update={"settings": spec.settings.model_copy(update={"task": task})})


def parse_request(gateway: Gateway, body: dict[str, Any]) -> JobSpec:
    """The spec in a client's `body`, which may be one for OpenAI's API; `Invalid`."""
    aliases = gateway.settings.models.model_aliases
    return parse_job_spec(
        translate_request(
            body,
            lambda each: files.get_file(gateway.store, each).data,
            aliases,
            lambda model: is_for_new_decoder(gateway, model),
        )
    )


def parse_job_spec(body: dict[str, Any]) -> JobSpec:
    """The spec in `body`; `Invalid`. Null stands for a field that is not given, as OpenAI's clients
    may send it."""
    fields = {name: value for name, value in body.items() if value is not None}
    spec = parse_record(JobSpec, fields)
    check_spec_size(spec)
    return spec
