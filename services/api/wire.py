"""Our records in the shapes of the OpenAI API: what a client sees, extended but never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qcrd.records import Event, Job, PublishedModel, StoredFile, Study, StudyStatus


def file(stored: StoredFile) -> dict[str, Any]:
    return {
        "id": stored.id,
        "object": "file",
        "bytes": stored.bytes,
        "created_at": int(stored.created_at),
        "filename": stored.filename,
        "purpose": stored.purpose,
        "status": "processed",
        "sha256": stored.sha256,
        "lines": stored.lines,
    }


def job(job: Job) -> dict[str, Any]:
    spec, failure = job.spec, job.failure
    method = spec.wire_method()
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "created_at": int(job.created_at),
        "finished_at": None if job.finished_at is None else int(job.finished_at),
        "model": spec.model,
        "training_file": spec.training_file,
        "validation_file": spec.validation_file,
        "test_file": spec.test_file,
        "suffix": spec.suffix,
        "seed": spec.seed,
        "metadata": spec.metadata,
        "method": method,
        "hyperparameters": method[method["type"]]["hyperparameters"],
        "status": job.status.value,
        "stage": None if job.stage is None else job.stage.value,
        "error": None if failure is None else failure.model_dump(mode="json"),
        "fine_tuned_model": job.model,
        "trained_tokens": None,
        "progress": job.progress.model_dump(mode="json"),
        "usage": job.usage.model_dump(mode="json"),
        "attempt": job.attempt,
        "waiting": job.waiting,
        "knowledge_of": spec.knowledge_of,
        "rationale_set": job.rationale_set,
        "seconds": job.seconds,
        "report": None if job.report is None else job.report.model_dump(mode="json"),
        "organization_id": "",
        "result_files": [],
        "estimated_finish": None,
        "integrations": [],
    }


def study(study: Study, status: StudyStatus, rationale_set: str | None) -> dict[str, Any]:
    """`job` is what its jobs share, as it was given."""
    spec = study.spec
    return {
        "id": study.id,
        "object": "study",
        "created_at": int(study.created_at),
        "status": status.value,
        "job": {
            "model": spec.job.model,
            "training_file": spec.job.training_file,
            "validation_file": spec.job.validation_file,
            "test_file": spec.job.test_file,
            "suffix": spec.job.suffix,
            "metadata": spec.job.metadata,
            "method": spec.job.wire_method(),
            "knowledge_of": spec.job.knowledge_of,
        },
        "methods": [method.value for method in spec.methods],
        "seeds": list(spec.seeds),
        "baseline": spec.baseline.value,
        "leader": study.leader,
        "rationale_set": rationale_set,
    }


def event(event: Event) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": event.id,
        "created_at": int(event.created_at),
        "level": event.level,
        "message": event.message,
        "type": event.type,
        "data": event.data,
    }


def model(published: PublishedModel) -> dict[str, Any]:
    return {
        "id": published.id,
        "object": "model",
        "created": int(published.created_at),
        "owned_by": "qcrd",
        "job_id": published.job_id,
        "base": published.base,
    }


def page(items: Sequence[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    return {
        "object": "list",
        "data": list(items),
        "has_more": has_more,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
    }


def error(
    message: str, *, type: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}
