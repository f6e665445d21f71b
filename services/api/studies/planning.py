"""A study's cells and their jobs: which rows, seeds and trials are trained, and on which set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from qcrd.records.specs.spec import Baseline, JobSpec, MethodName, MethodSpec
from qcrd.records.specs.study_rows import StudyMethod
from qcrd.records.specs.study_spec import StudySpec
from qcrd.records.study import Study, StudyCell
from qcrd.runtime import keys
from services.api.assembling import sampling_plan


def plan_study(spec: StudySpec, study_id: str, owner: str) -> Study:
    """The study with an id for each job, derived from its own. Seeds are outermost: the first ones
    to be done are all methods under one seed, which can be compared."""
    cells = [
        StudyCell(
            method=row.method,
            seed=seed,
            job_id=_derive_job_id(study_id, get_trained_row(row, spec), seed, trial, spec),
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


def get_trained_row(row: StudyMethod, spec: StudySpec) -> StudyMethod:
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
    leaders wait for one another: what two of them ask the teacher for is then paid once.
    """
    study_spec, specs_by_id = study.spec, {}
    settings = _make_settings(study)
    leaders = _list_leaders(study, settings)
    own_set = describe_set(study_spec.job.settings)
    for cell in iter_trained_cells(study):
        has_equal_compute = any(c.job_id == cell.job_id and c is not cell for c in study.cells)
        baselines = (Baseline.FINETUNE_EQUAL_COMPUTE,) if has_equal_compute else ()
        kind = describe_set(settings[cell.job_id])
        leader = leaders[kind]
        is_leader = cell.job_id == leader
        asks_too = sampling_plan.reads_outputs(cell.method.value, settings[cell.job_id])
        before = _get_leader_before(leaders, leader) if is_leader and asks_too else None
        given_set = study_spec.job.knowledge_of if kind == own_set else None
        specs_by_id[cell.job_id] = study_spec.job.model_copy(
            update={
                "method": MethodName(cell.method.value),
                "seed": cell.seed,
                "settings": settings[cell.job_id].model_copy(update={"baselines": baselines}),
                "metadata": {**study_spec.job.metadata, "study": study.id, **_name(study, cell)},
                "knowledge_of": given_set if is_leader else leader,
                "after": before or (study_spec.job.after if cell.job_id == study.leader else None),
            }
        )
    ahead = dict.fromkeys((study.leader, *leaders.values()))
    order = {job_id: place for place, job_id in enumerate(ahead)}
    return dict(sorted(specs_by_id.items(), key=lambda pair: order.get(pair[0], len(order))))


def _get_leader_before(leaders: Mapping[str, str], leader: str) -> str | None:
    order = list(leaders.values())
    place = order.index(leader)
    return order[place - 1] if place else None


def iter_trained_cells(study: Study) -> Iterator[StudyCell]:
    """Those with a job of their own."""
    return (cell for cell in study.cells if cell.method is not Baseline.FINETUNE_EQUAL_COMPUTE)


def _make_settings(study: Study) -> dict[str, MethodSpec]:
    """Each job's settings, by its id."""
    rows = {row.name: row for row in study.spec.rows}
    return {
        cell.job_id: study.spec.make_settings(rows[cell.row_name], cell.trial)
        for cell in iter_trained_cells(study)
    }


def _list_leaders(study: Study, settings: Mapping[str, MethodSpec]) -> dict[str, str]:
    """The job that assembles each rationale set: the first that reads outputs, as a set assembled
    for labels only would have no rationales for the others. Sets of labels alone come last."""
    leaders: dict[str, str] = {}
    needing: dict[str, str] = {}
    for cell in iter_trained_cells(study):
        kind = describe_set(settings[cell.job_id])
        leaders.setdefault(kind, cell.job_id)
        reads_outputs = sampling_plan.reads_outputs(cell.method.value, settings[cell.job_id])
        if reads_outputs:
            needing.setdefault(kind, cell.job_id)
    return {**needing, **{kind: job for kind, job in leaders.items() if kind not in needing}}


def describe_set(settings: MethodSpec) -> str:
    """What of a row's own settings makes its rationale set another one."""
    return f"{settings.label_mode} {settings.rationales.model_dump_json()}"


def _name(study: Study, cell: StudyCell) -> dict[str, str]:
    """By which a study's jobs can be told apart in a list: not by their method alone."""
    named = {} if cell.row_name == cell.method.value else {"row": cell.row_name}
    return named | ({"trial": str(cell.trial)} if study.spec.trials else {})
