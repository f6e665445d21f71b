"""Studies: creates one job per row, seed and trial, and describes their progress.

The study's record is written first, with the ids of its future jobs. A gateway that dies in
between leaves a study with missing jobs, which `resume_study` creates; reading creates nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qcrd.errors import Conflict, NotFound
from qcrd.records.api_keys import ApiKey
from qcrd.records.base import parse_record
from qcrd.records.job import Job, JobStatus
from qcrd.records.specs.study_spec import StudySpec
from qcrd.records.study import Study, StudyJob, StudyStatus
from qcrd.runtime import keys
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.storage.store import Store, find_readable_record, read_record, write_record
from services.api.dependencies import Gateway
from services.api.http.access.ownership import check_owner
from services.api.http.idempotency import derive_id
from services.api.http.paging import skip_through
from services.api.jobs import lifecycle
from services.api.jobs.base_defaults import choose_defaults
from services.api.jobs.checks.spec_limits import check_spec_size
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.create import (
    check_priority,
    emit_creation_events,
    find_creation_warnings,
    submit_job,
)
from services.api.studies.checks import validate_study_spec
from services.api.studies.planning import iter_trained_cells, make_job_specs, plan_study


def create_study(
    gateway: Gateway, body: dict[str, Any], caller: ApiKey, cache: ValidationCache
) -> Study:
    fields = {name: value for name, value in body.items() if value is not None}
    spec = parse_record(StudySpec, fields)
    check_spec_size(spec.job, "job.")
    check_priority(spec.job, caller, "job.priority")
    job, defaults = choose_defaults(gateway, spec.job)
    spec = spec.model_copy(update={"job": job})
    validate_study_spec(gateway, spec, cache)
    study = plan_study(spec, derive_id("study"), caller.name)
    # The leader's data is that of all jobs, and it is the one that asks the teacher.
    warnings = find_creation_warnings(gateway, make_job_specs(study)[study.leader])
    write_record(gateway.store, keys.study_key(study.id), study)
    resume_study(gateway, study, caller)
    emit_creation_events(gateway, study.leader, defaults, warnings)
    return study


def resume_study(gateway: Gateway, study: Study, caller: ApiKey) -> None:
    """Create the study's missing jobs, the leader first."""
    check_owner(f"study {study.id}", study.owner, caller)
    for job_id, spec in make_job_specs(study).items():
        if _find_job(gateway.jobs, job_id) is None:
            submit_job(gateway, job_id, spec, caller)


def get_study(store: Store, study_id: str) -> Study:
    key = keys.study_key(keys.require_id(study_id, "study_id", "study_not_found"))
    try:
        return read_record(store, key, Study)
    except NotFound as error:
        raise NotFound(
            f"there is no study {study_id}", param="study_id", code="study_not_found"
        ) from error


def list_studies(store: Store, after: str | None = None) -> Sequence[Study]:
    """All studies, or those older than study `after`; `Invalid` when there is none of that id."""
    stored = (find_readable_record(store, key, Study) for key in store.list(keys.STUDIES))
    studies = [study for study in stored if study is not None]
    studies.sort(key=lambda study: (study.created_at, study.id), reverse=True)
    return skip_through(studies, after, "study", lambda study: study.id)


def cancel_study(gateway: Gateway, study: Study, caller: ApiKey) -> None:
    """Cancel every unfinished job, the leader last, as the others fail without it. `Forbidden`,
    and none is cancelled, unless the caller may cancel all."""
    check_owner(f"study {study.id}", study.owner, caller)
    unfinished_jobs = [
        job for job in get_study_jobs(gateway, study).values() if job and job.status not in TERMINAL
    ]
    for job in unfinished_jobs:
        check_owner(f"job {job.id}", job.owner, caller)
    for job in reversed(unfinished_jobs):
        try:
            lifecycle.cancel_job(gateway, job, caller)
        except Conflict:
            continue  # it ended in between


def get_study_jobs(gateway: Gateway, study: Study) -> dict[str, Job | None]:
    return {job_id: _find_job(gateway.jobs, job_id) for job_id in make_job_specs(study)}


def derive_status(jobs: Mapping[str, Job | None]) -> StudyStatus:
    statuses = [None if job is None else job.status for job in jobs.values()]
    if any(end is not None and end not in TERMINAL for end in statuses):
        return StudyStatus.RUNNING
    succeeded = statuses.count(JobStatus.SUCCEEDED)
    if succeeded == len(statuses):
        return StudyStatus.SUCCEEDED
    return StudyStatus.INCOMPLETE if succeeded else StudyStatus.FAILED


def iter_study_jobs(study: Study, jobs: Mapping[str, Job | None]) -> Iterator[StudyJob]:
    names = {cell.job_id: cell.row_name for cell in iter_trained_cells(study)}
    trials = {
        cell.job_id: cell.trial if study.spec.trials else None for cell in iter_trained_cells(study)
    }
    for job_id, spec in make_job_specs(study).items():
        job = jobs[job_id]
        placeholder = StudyJob(
            id=job_id, method=names[job_id], seed=spec.seed, trial=trials[job_id], status=None
        )
        if job is None:
            problem = f"was never created: POST /v1/studies/{study.id}/resume creates it"
            yield placeholder.model_copy(update={"error": problem})
            continue
        yield StudyJob(
            id=job_id,
            method=names[job_id],
            seed=spec.seed,
            trial=trials[job_id],
            status=job.status,
            stage=job.stage.value if job.stage else None,
            percent=job.progress.percent,
            waiting=job.waiting,
            error=job.failure.message if job.failure else None,
            rationale_set=job.rationale_set,
        )


def _find_job(jobs: JobStore, job_id: str) -> Job | None:
    try:
        return jobs.get(job_id)
    except NotFound:
        return None
