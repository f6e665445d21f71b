"""Studies: from a request's body to one job per method and seed, and how far these are.

The study's record is written first, with the ids that its jobs will have. A gateway that dies in
between leaves a study with jobs that are missing, which `resume` creates; reading creates nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from qcrd.errors import Conflict, Invalid, NotFound
from qcrd.records.api_keys import ApiKey
from qcrd.records.base import parse_record
from qcrd.records.job import Job, JobStatus
from qcrd.records.spec import Baseline, JobSpec, MethodName
from qcrd.records.study import Study, StudyCell, StudyJob, StudySpec, StudyStatus, prefix_error_path
from qcrd.runtime import keys
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.storage.store import Store, read_record, write_record
from services.api.assembling import sampling_plan
from services.api.dependencies import Gateway
from services.api.http.idempotency import derive_id
from services.api.http.ownership import check_owner
from services.api.jobs import lifecycle
from services.api.jobs.create import check_priority, submit_job
from services.api.jobs.shared_rationales import check_shared_set
from services.api.jobs.validation import validate_job_spec


def create(here: Gateway, body: dict[str, Any], caller: ApiKey) -> Study:
    given = {name: value for name, value in body.items() if value is not None}
    spec = parse_record(StudySpec, given)
    check_priority(spec.job, caller, "job.priority")
    _check(here, spec)
    study = laid_out(spec, derive_id("study"), caller.name)
    write_record(here.store, keys.study_key(study.id), study)
    resume(here, study, caller)
    return study


def resume(here: Gateway, study: Study, caller: ApiKey) -> None:
    """Create those of the study's jobs that are not there, the leader first."""
    check_owner(f"study {study.id}", study.owner, caller)
    for job_id, spec in specs(study).items():
        if _found(here.jobs, job_id) is None:
            submit_job(here, job_id, spec, caller)


def laid_out(spec: StudySpec, study_id: str, owner: str) -> Study:
    """The study with an id for each job, derived from its own. Seeds are outermost: the first ones
    to be done are all methods under one seed, which can be compared."""
    cells: list[StudyCell] = []
    for seed in spec.seeds:
        ids: dict[Baseline, str] = {
            method: f"ftjob-{keys.digest(study_id, method.value, str(seed))}"
            for method in spec.methods
            if method is not Baseline.FINETUNE_EQUAL_COMPUTE
        }
        cells += [
            StudyCell(method=m, seed=seed, job_id=ids[_trained_by(m, spec)], row=m.value)
            for m in spec.methods
        ]
    study = Study(
        id=study_id,
        created_at=time.time(),
        spec=spec,
        leader=cells[0].job_id,
        cells=tuple(cells),
        owner=owner,
    )
    # A set assembled for labels only would have no rationales for the others.
    asking = (
        job_id for job_id, job in specs(study).items() if sampling_plan.needs_teacher_outputs(job)
    )
    return study.model_copy(update={"leader": next(asking, study.leader)})


def _trained_by(method: Baseline, spec: StudySpec) -> Baseline:
    """The method whose job has `method` as a row."""
    if method is not Baseline.FINETUNE_EQUAL_COMPUTE:
        return method
    assert spec.compute_reference is not None, (
        "a study without a reference is refused when it is read"
    )
    return spec.compute_reference


def specs(study: Study) -> dict[str, JobSpec]:
    """Each job's spec by its id; the leader's comes first."""
    wanted, made = study.spec, {}
    for cell in study.cells:
        if cell.method is Baseline.FINETUNE_EQUAL_COMPUTE:
            continue
        beside = any(c.job_id == cell.job_id and c is not cell for c in study.cells)
        baselines = (Baseline.FINETUNE_EQUAL_COMPUTE,) if beside else ()
        leads = cell.job_id == study.leader
        made[cell.job_id] = wanted.job.model_copy(
            update={
                "method": MethodName(cell.method.value),
                "seed": cell.seed,
                "settings": wanted.job.settings.model_copy(update={"baselines": baselines}),
                "metadata": {**wanted.job.metadata, "study": study.id},
                "knowledge_of": wanted.job.knowledge_of if leads else study.leader,
            }
        )
    return dict(sorted(made.items(), key=lambda pair: pair[0] != study.leader))


def _check(here: Gateway, spec: StudySpec) -> None:
    """As a job that has all the methods as its rows; what is wrong is told by its path in the
    study's body, where the settings stand under the name of `job.method`."""
    method = MethodName(_trained_by(spec.methods[0], spec).value)
    settings = spec.job.settings.model_copy(update={"baselines": spec.methods})
    asked = spec.job.model_copy(update={"method": method, "settings": settings})
    try:
        validate_job_spec(asked, here.store, here.settings, here.validation_cache)
        check_shared_set(asked, here.jobs)
    except Invalid as error:
        ours, theirs = f"method.{method}.", f"method.{spec.job.method}."
        message = error.message.replace(f"`{ours}", f"`{theirs}")
        param = error.param and error.param.replace(ours, theirs)
        raise prefix_error_path("job", Invalid(message, param=param, code=error.code)) from error


def find(store: Store, study_id: str) -> Study:
    key = keys.study_key(keys.validate_id(study_id, "study_id"))
    try:
        return read_record(store, key, Study)
    except NotFound as error:
        raise NotFound(
            f"there is no study {study_id}", param="study_id", code="study_not_found"
        ) from error


def newest_first(store: Store, after: str | None = None) -> list[Study]:
    """All of them, or those older than study `after`; `Invalid` when there is none of that id."""
    found = [read_record(store, key, Study) for key in store.list(keys.STUDIES)]
    found.sort(key=lambda study: (study.created_at, study.id), reverse=True)
    if after is None:
        return found
    places = [place for place, study in enumerate(found) if study.id == after]
    if not places:
        raise Invalid(f"`after`: there is no study {after[:80]!r}", param="after")
    return found[places[0] + 1 :]


def cancel(here: Gateway, study: Study, caller: ApiKey) -> None:
    """End every job that is not over; the leader last, or the others would fail for want of it.
    Either all of them are the caller's to end, or none is ended."""
    check_owner(f"study {study.id}", study.owner, caller)
    found = [job for job in jobs_of(here, study).values() if job and job.status not in TERMINAL]
    for job in found:
        check_owner(f"job {job.id}", job.owner, caller)
    for job in reversed(found):
        try:
            lifecycle.cancel_job(here, job, caller)
        except Conflict:
            continue  # it came to its end in between


def jobs_of(here: Gateway, study: Study) -> dict[str, Job | None]:
    return {job_id: _found(here.jobs, job_id) for job_id in specs(study)}


def status(found: Mapping[str, Job | None]) -> StudyStatus:
    ends = [None if job is None else job.status for job in found.values()]
    if any(end is not None and end not in TERMINAL for end in ends):
        return StudyStatus.RUNNING
    succeeded = ends.count(JobStatus.SUCCEEDED)
    if succeeded == len(ends):
        return StudyStatus.SUCCEEDED
    return StudyStatus.INCOMPLETE if succeeded else StudyStatus.FAILED


def shown(study: Study, found: Mapping[str, Job | None]) -> Iterator[StudyJob]:
    for job_id, spec in specs(study).items():
        job = found[job_id]
        known = StudyJob(id=job_id, method=spec.method.value, seed=spec.seed, status=None)
        if job is None:
            missing = f"was never created: POST /v1/studies/{study.id}/resume creates it"
            yield known.model_copy(update={"error": missing})
            continue
        yield StudyJob(
            id=job_id,
            method=spec.method.value,
            seed=spec.seed,
            status=job.status,
            stage=job.stage.value if job.stage else None,
            percent=job.progress.percent,
            waiting=job.waiting,
            error=job.failure.message if job.failure else None,
            rationale_set=job.rationale_set,
        )


def _found(jobs_: JobStore, job_id: str) -> Job | None:
    try:
        return jobs_.get(job_id)
    except NotFound:
        return None
