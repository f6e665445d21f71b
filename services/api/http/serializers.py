"""Serializes our records into the API's schemas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcrd.records.job import Event, Job, JobStatus, PublishedModel, StoredFile
from qcrd.records.rest import (
    FileObject,
    FineTuningJob,
    FineTuningJobEvent,
    ModelObject,
    ObjectT,
    Page,
    QueuePosition,
    StudyJobTemplate,
    StudySummary,
)
from qcrd.records.study import Study, StudyStatus
from qcrd.runtime.jobs.result_file import get_result_file_id


def serialize_file(stored: StoredFile) -> FileObject:
    return FileObject(
        id=stored.id,
        bytes=stored.bytes,
        created_at=int(stored.created_at),
        filename=stored.filename,
        purpose=stored.purpose,
        expires_at=None if stored.expires_at is None else int(stored.expires_at),
        sha256=stored.sha256,
        lines=stored.lines,
        format=stored.data.format,
        columns=list(stored.data.columns),
        notices=list(stored.data.notices),
    )


def serialize_job(
    job: Job, queue: QueuePosition | None = None, estimated_finish: float | None = None
) -> FineTuningJob:
    spec = job.spec
    method = spec.dump_method()
    return FineTuningJob(
        id=job.id,
        created_at=int(job.created_at),
        finished_at=None if job.finished_at is None else int(job.finished_at),
        estimated_finish=None if estimated_finish is None else int(estimated_finish),
        model=spec.model,
        fine_tuned_model=job.model,
        created_by=job.owner,
        status=job.status.value,
        error=job.failure,
        training_file=spec.training_file,
        validation_file=spec.validation_file,
        seed=spec.seed,
        suffix=spec.suffix,
        metadata=spec.metadata,
        method=method,
        hyperparameters=_add_openai_names(method[method["type"]]["hyperparameters"]),
        result_files=_list_result_files(job),
        integrations=[integration.dump() for integration in spec.integrations],
        test_file=spec.test_file,
        knowledge_of=spec.knowledge_of,
        after=spec.after,
        priority=spec.priority.value,
        stage=None if job.stage is None else job.stage.value,
        progress=job.progress,
        queue_position=None if queue is None else queue.position,
        queue=queue,
        usage=job.usage,
        budget=job.budget,
        attempt=job.attempt,
        waiting=job.waiting,
        paused_because=job.paused_because,
        rationale_set=job.rationale_set,
        seconds=job.seconds,
        report=job.report,
    )


def _list_result_files(job: Job) -> list[str]:
    """Of a job that has been archived, with which they are written."""
    is_there = job.concluded and job.status is JobStatus.SUCCEEDED
    return [get_result_file_id(job.id)] if is_there else []


def _add_openai_names(hyperparameters: dict[str, Any]) -> dict[str, Any]:
    """With the number of epochs as OpenAI's clients look for it."""
    return {**hyperparameters, "n_epochs": hyperparameters["iterations"]}


def serialize_study(study: Study, status: StudyStatus, rationale_set: str | None) -> StudySummary:
    spec = study.spec
    return StudySummary(
        id=study.id,
        created_at=int(study.created_at),
        status=status,
        job=StudyJobTemplate(
            model=spec.job.model,
            training_file=spec.job.training_file,
            validation_file=spec.job.validation_file,
            test_file=spec.job.test_file,
            suffix=spec.job.suffix,
            metadata=spec.job.metadata,
            method=spec.job.dump_method(),
            knowledge_of=spec.job.knowledge_of,
        ),
        methods=[row.name for row in spec.rows],
        rows=list(spec.rows),
        trials=list(spec.trials),
        seeds=list(spec.seeds),
        baseline=spec.baseline,
        leader=study.leader,
        rationale_set=rationale_set,
    )


def serialize_event(event: Event) -> FineTuningJobEvent:
    return FineTuningJobEvent(
        id=event.id,
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def serialize_model(published: PublishedModel) -> ModelObject:
    return ModelObject(
        id=published.id,
        created=int(published.created_at),
        job_id=published.job_id,
        base=published.base,
    )


def build_page(items: Sequence[ObjectT], *, has_more: bool = False) -> Page[ObjectT]:
    return Page[ObjectT](
        data=list(items),
        has_more=has_more,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
    )
