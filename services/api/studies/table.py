"""A study's table so far, from the reports and predictions of its finished jobs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from qcrd.errors import NotFound
from qcrd.method.evaluation.study_table import StudyRun, build_study_table
from qcrd.records.job import Job, JobStatus
from qcrd.records.rationales import Prediction
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.study import Study, StudyTable
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, read_lines

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
    )


def _iter_runs(study: Study, jobs: Mapping[str, Job | None], store: Store) -> Iterator[StudyRun]:
    predictions_by_job: dict[str, list[Prediction]] = {}
    for cell in study.cells:
        job = jobs[cell.job_id]
        if job is None or job.status is not JobStatus.SUCCEEDED or job.report is None:
            continue
        if job.id not in predictions_by_job:
            predictions_by_job[job.id] = _read_predictions(store, job.id)
        cell_predictions = [
            answer for answer in predictions_by_job[job.id] if answer.method == cell.row
        ]
        yield StudyRun(
            method=cell.row_name,
            seed=cell.seed,
            test=job.report.test.get(cell.row),
            validation=job.report.validation.get(cell.row),
            questions=tuple(answer.question_id for answer in cell_predictions),
            right=tuple(answer.right for answer in cell_predictions),
        )


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
