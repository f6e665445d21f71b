"""Studies: creates one job per row, seed and trial, and describes their progress.

The study's record is written first, with the ids of its future jobs. A gateway that dies in
between leaves a study with missing jobs, which `resume_study` creates; reading creates nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from qcrd.errors import Conflict, Invalid, NotFound
from qcrd.records.api_keys import ApiKey
from qcrd.records.base import parse_record
from qcrd.records.job import Job, JobStatus
from qcrd.records.specs.spec import Baseline, JobSpec, MethodName, MethodSpec
from qcrd.records.specs.study_rows import StudyMethod
from qcrd.records.specs.study_spec import StudySpec, prefix_error_path
from qcrd.records.study import Study, StudyCell, StudyJob, StudyStatus
from qcrd.runtime import keys
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.storage.store import Store, find_readable_record, read_record, write_record
from services.api.assembling import sampling_plan
from services.api.dependencies import Gateway
from services.api.http.access.ownership import check_owner
from services.api.http.idempotency import derive_id
from services.api.http.paging import skip_through
from services.api.jobs import lifecycle
from services.api.jobs.base_defaults import choose_defaults
from services.api.jobs.checks.budget_checks import check_budget_covers_a_request
from services.api.jobs.checks.spec_limits import check_spec_size
from services.api.jobs.checks.unread_fields import check_unread_fields
from services.api.jobs.checks.validation import validate_job_spec
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.create import (
    check_priority,
    emit_creation_events,
    find_creation_warnings,
    submit_job,
)
from services.api.jobs.shared_rationales import check_shared_set


def create_study(
    gateway: Gateway, body: dict[str, Any], caller: ApiKey, cache: ValidationCache
) -> Study:
    fields = {name: value for name, value in body.items() if value is not None}
    spec = parse_record(StudySpec, fields)
    check_spec_size(spec.job, "job.")
    check_priority(spec.job, caller, "job.priority")
    job, defaults = choose_defaults(gateway, spec.job)
    spec = spec.model_copy(update={"job": job})
    _validate_study_spec(gateway, spec, cache)
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


def plan_study(spec: StudySpec, study_id: str, owner: str) -> Study:
    """The study with an id for each job, derived from its own. Seeds are outermost: the first ones
    to be done are all methods under one seed, which can be compared."""
    cells = [
        StudyCell(
            method=row.method,
            seed=seed,
            job_id=_derive_job_id(study_id, _get_trained_row(row, spec), seed, trial, spec),
            row=row.method.value,
            name=row.name,
            trial=trial,
        )
        for seed in spec.seeds
        for trial in range(max(1, len(spec.trials)))
        for row in spec.rows
    ]
    study = Study(
        id=study_id,
        created_at=time.time(),
        spec=spec,
        leader=cells[0].job_id,
        cells=tuple(cells),
        owner=owner,
    )
    # The one whose set the others wait for, and which is shown as the study's.
    first = next(iter(_list_leaders(study, _make_settings(study)).values()))
    return study.model_copy(update={"leader": first})


def _derive_job_id(study_id: str, row: StudyMethod, seed: int, trial: int, spec: StudySpec) -> str:
    parts = [study_id, row.name, str(seed), *([str(trial)] if spec.trials else [])]
    return f"ftjob-{keys.digest(*parts)}"


def _get_trained_row(row: StudyMethod, spec: StudySpec) -> StudyMethod:
    """The row whose job has `row` in its report."""
    if row.method is not Baseline.FINETUNE_EQUAL_COMPUTE:
        return row
    assert spec.compute_reference is not None, (
        "a study without a reference is refused when it is read"
    )
    return spec.compute_reference


def make_job_specs(study: Study) -> dict[str, JobSpec]:
    """Each job's spec by its id; that of the leader comes first, those of other sets' next.

    Jobs whose settings make the same rationale set share the one that a leader assembles, and the
    other leaders wait for the study's: what both ask the teacher for is then paid once.
    """
    study_spec, specs_by_id = study.spec, {}
    settings = _make_settings(study)
    leaders = _list_leaders(study, settings)
    own_set = _describe_set(study_spec.job.settings)
    for cell in _iter_trained_cells(study):
        has_equal_compute = any(c.job_id == cell.job_id and c is not cell for c in study.cells)
        baselines = (Baseline.FINETUNE_EQUAL_COMPUTE,) if has_equal_compute else ()
        kind = _describe_set(settings[cell.job_id])
        leader = leaders[kind]
        is_leader = cell.job_id == leader
        asks_too = sampling_plan.reads_outputs(cell.method.value, settings[cell.job_id])
        waits = is_leader and asks_too and cell.job_id != study.leader
        given_set = study_spec.job.knowledge_of if kind == own_set else None
        specs_by_id[cell.job_id] = study_spec.job.model_copy(
            update={
                "method": MethodName(cell.method.value),
                "seed": cell.seed,
                "settings": settings[cell.job_id].model_copy(update={"baselines": baselines}),
                "metadata": {**study_spec.job.metadata, "study": study.id, **_name(study, cell)},
                "knowledge_of": given_set if is_leader else leader,
                "after": study.leader if waits else None,
            }
        )
    ahead = dict.fromkeys((study.leader, *leaders.values()))
    order = {job_id: place for place, job_id in enumerate(ahead)}
    return dict(sorted(specs_by_id.items(), key=lambda pair: order.get(pair[0], len(order))))


def _iter_trained_cells(study: Study) -> Iterator[StudyCell]:
    """Those with a job of their own."""
    return (cell for cell in study.cells if cell.method is not Baseline.FINETUNE_EQUAL_COMPUTE)


def _make_settings(study: Study) -> dict[str, MethodSpec]:
    """Each job's settings, by its id."""
    rows = {row.name: row for row in study.spec.rows}
    return {
        cell.job_id: study.spec.make_settings(rows[cell.row_name], cell.trial)
        for cell in _iter_trained_cells(study)
    }


def _list_leaders(study: Study, settings: Mapping[str, MethodSpec]) -> dict[str, str]:
    """The job that assembles each rationale set: the first that reads outputs, as a set assembled
    for labels only would have no rationales for the others. Sets of labels alone come last."""
    leaders: dict[str, str] = {}
    needing: dict[str, str] = {}
    for cell in _iter_trained_cells(study):
        kind = _describe_set(settings[cell.job_id])
        leaders.setdefault(kind, cell.job_id)
        reads_outputs = sampling_plan.reads_outputs(cell.method.value, settings[cell.job_id])
        if reads_outputs:
            needing.setdefault(kind, cell.job_id)
    return {**needing, **{kind: job for kind, job in leaders.items() if kind not in needing}}


def _describe_set(settings: MethodSpec) -> str:
    """What of a row's own settings makes its rationale set another one."""
    return f"{settings.label_mode} {settings.rationales.model_dump_json()}"


def _name(study: Study, cell: StudyCell) -> dict[str, str]:
    """By which a study's jobs can be told apart in a list: not by their method alone."""
    named = {} if cell.row_name == cell.method.value else {"row": cell.row_name}
    return named | ({"trial": str(cell.trial)} if study.spec.trials else {})


def _validate_study_spec(gateway: Gateway, spec: StudySpec, cache: ValidationCache) -> None:
    """Parse the body as a job that has all the methods as its rows; an error names the path in the
    study's body, where the settings are under `job.method`, or in the row whose own they are."""
    methods = tuple(dict.fromkeys(row.method for row in spec.rows))
    for place, row in enumerate(spec.rows):
        if place and not row.settings:
            continue  # the first is checked with all the methods
        for trial in range(max(1, len(spec.trials))):
            method = MethodName(_get_trained_row(row, spec).method.value)
            settings = spec.make_settings(row, trial).model_copy(update={"baselines": methods})
            job = spec.job.model_copy(update={"method": method, "settings": settings})
            with _telling_paths(spec, row, method):
                validate_job_spec(job, gateway, cache)
                if not place:
                    check_shared_set(job, gateway.jobs)
                    check_budget_covers_a_request(gateway, job)
            alone = job.model_copy(
                update={"settings": settings.model_copy(update={"baselines": ()})}
            )
            with _telling_paths(spec, row, method, own_only=True):
                check_unread_fields(alone)


@contextmanager
def _telling_paths(
    spec: StudySpec, row: StudyMethod, method: MethodName, *, own_only: bool = False
) -> Iterator[None]:
    """An error's field by its path in the study's body; with `own_only` of a row's own fields
    alone."""
    try:
        yield
    except Invalid as error:
        own_path = f"method.{method}."
        field = (error.param or "").removeprefix(own_path)
        section, _, name = field.partition(".")
        is_own = name in row.settings.get(section, ()) if name else section in row.settings
        if own_only and not is_own:
            return
        place = spec.rows.index(row)
        # A named row's settings are not in the body: it is the row that does not fit.
        is_written = isinstance(spec.methods[place], StudyMethod)
        path = f"methods.{place}.settings." if is_own else f"job.method.{spec.job.method}."
        param = error.param
        if param is not None and not param.startswith(own_path):
            raise prefix_error_path("job", error) from error
        if is_own and not is_written:
            message = f"`methods.{place}` ({row.name}): {error.message}"
            raise Invalid(message, param=f"methods.{place}", code=error.code) from error
        message = error.message.replace(f"`{own_path}", f"`{path}")
        shown = param and param.replace(own_path, path)
        raise Invalid(message, param=shown, code=error.code) from error


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
    names = {cell.job_id: cell.row_name for cell in _iter_trained_cells(study)}
    trials = {
        cell.job_id: cell.trial if study.spec.trials else None
        for cell in _iter_trained_cells(study)
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
