"""A study's table so far, from the reports and predictions of its finished jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from qcrd.errors import NotFound
from qcrd.method.evaluation.study_table import StudyRun, build_study_table
from qcrd.records.job import Job, JobStatus, Report
from qcrd.records.rationales import Prediction
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.specs.spec import Baseline
from qcrd.records.specs.study_spec import TRIED_RATES
from qcrd.records.study import Study, StudyCell, StudyTable
from qcrd.runtime import keys
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.store import Store
from services.api.assembling import sampling_plan

REFERENCE_METHODS = ("teacher", "majority_class")
"""Rows of a job's report that are independent of training."""


def build_table(study: Study, jobs: Mapping[str, Job | None], store: Store) -> StudyTable:
    """`jobs` are the study's by id; only those that have succeeded count."""
    spec = study.spec
    return build_study_table(
        [row.name for row in spec.rows],
        spec.seeds,
        spec.baseline,
        list(_iter_runs(study, jobs, store)),
        has_test_file=spec.job.test_file is not None,
        margin=spec.equivalence_margin,
        references=_get_reference_accuracies(jobs),
        trials=[_format_trial(trial) for trial in spec.trials],
        failed_trials=list(_iter_failed_trials(study, jobs)),
    )


def _iter_runs(study: Study, jobs: Mapping[str, Job | None], store: Store) -> Iterator[StudyRun]:
    rows = {row.name: row for row in study.spec.rows}
    predictions_by_job: dict[str, list[Prediction]] = {}
    for cell, report in _iter_chosen_cells(study, jobs):
        if cell.job_id not in predictions_by_job:
            predictions_by_job[cell.job_id] = _read_predictions(store, cell.job_id)
        cell_predictions = [
            answer for answer in predictions_by_job[cell.job_id] if answer.method == cell.row
        ]
        gap = report.rationale_gap.get(cell.row)
        settings = study.spec.make_settings(rows[cell.row_name])
        reads_outputs = sampling_plan.reads_outputs(cell.method.value, settings)
        if settings.positives.source == "student" and settings.label_mode == "gold":
            reads_outputs = False  # it learns nothing of the teacher's
        yield StudyRun(
            method=cell.row_name,
            seed=cell.seed,
            test=report.test.get(cell.row),
            validation=report.validation.get(cell.row),
            questions=tuple(answer.question_id for answer in cell_predictions),
            right=tuple(answer.right for answer in cell_predictions),
            trial=cell.trial if study.spec.trials else None,
            teacher_tokens=report.rationales.teacher_tokens if reads_outputs else None,
            given_rationale=_get_given_rationale(report, cell),
            rationale_gap=gap.gap if gap else None,
            in_force_share=report.in_force_share.get(cell.row),
        )


def _iter_chosen_cells(
    study: Study, jobs: Mapping[str, Job | None]
) -> Iterator[tuple[StudyCell, Report]]:
    """Of each row and seed the trial that is best on validation, the first of equal ones, once all
    of them have ended: of some that are still to come nothing is known."""
    trials: dict[tuple[str, int], list[StudyCell]] = {}
    for cell in study.cells:
        trials.setdefault((cell.row_name, cell.seed), []).append(cell)
    chosen_trials: dict[tuple[str, int], int] = {}
    for (name, seed), all_cells in sorted(trials.items(), key=lambda pair: _is_beside(pair[1])):
        cells = all_cells
        if _is_beside(all_cells) and (reference := study.spec.compute_reference) is not None:
            # As much compute as the chosen trial of the other, whatever that was.
            chosen = chosen_trials.get((reference.name, seed))
            cells = [c for c in all_cells if _is_as_long(study, c.trial, chosen)]
        ended = [job for cell in cells if (job := jobs[cell.job_id]) and job.status in TERMINAL]
        if not cells or len(ended) < len(cells):
            continue
        succeeded = [
            (cell, job.report)
            for cell, job in zip(cells, ended, strict=True)
            if job.status is JobStatus.SUCCEEDED and job.report is not None
        ]
        if succeeded:
            best = max(succeeded, key=_get_validation_accuracy)
            chosen_trials[name, seed] = best[0].trial
            yield best


def _is_beside(cells: Sequence[StudyCell]) -> bool:
    """Whether a row is trained in the jobs of another one, whose compute it gets."""
    return cells[0].method is Baseline.FINETUNE_EQUAL_COMPUTE


def _is_as_long(study: Study, trial: int, other: int | None) -> bool:
    """Whether two trials differ in nothing but rates, so that they are as much work."""
    if other is None:
        return False
    tried = study.spec.trials
    return not tried or _drop_rates(tried[trial]) == _drop_rates(tried[other])


def _drop_rates(trial: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trial.items() if name not in TRIED_RATES}


def _iter_failed_trials(study: Study, jobs: Mapping[str, Job | None]) -> Iterator[str]:
    for cell in study.cells if study.spec.trials else ():
        job = jobs[cell.job_id]
        if job is not None and job.status in TERMINAL and job.status is not JobStatus.SUCCEEDED:
            yield f"{cell.row_name}, seed {cell.seed}, trial {cell.trial} ({job.status})"


def _get_validation_accuracy(trained: tuple[StudyCell, Report]) -> float:
    cell, report = trained
    validation = report.validation.get(cell.row)
    return -1.0 if validation is None else validation.accuracy


def _get_given_rationale(report: Report, cell: StudyCell) -> float | None:
    """Of the questions that the student read with its own rationale, the share answered rightly."""
    use = report.rationale_use.get(cell.row)
    if use is not None and use.given:
        return use.given_right / use.given
    is_own = cell.method is not Baseline.FINETUNE_EQUAL_COMPUTE  # that is trained beside another
    swap = report.answering.swap if report.answering and is_own else None
    return swap.right_with_own / swap.n if swap and swap.n else None


def _format_trial(hyperparameters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in hyperparameters.items())


def _read_predictions(store: Store, job_id: str) -> list[Prediction]:
    """The predictions; none where they were deleted: the row stays without a comparison."""
    try:
        return list(read_lines(store, keys.job_predictions_key(job_id), Prediction))
    except NotFound:
        return []


def _get_reference_accuracies(jobs: Mapping[str, Job | None]) -> dict[str, Accuracy]:
    """The reference accuracies of the first finished job: all read the same set."""
    for job in jobs.values():
        if job is not None and job.report is not None and job.status is JobStatus.SUCCEEDED:
            return {
                name: job.report.test[name] for name in REFERENCE_METHODS if name in job.report.test
            }
    return {}
