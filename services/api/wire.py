"""Our records in the shapes of the OpenAI API: what a client sees, extended but never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel

from qcrd.records import Budget as JobBudget
from qcrd.records import (
    Event,
    Failure,
    Job,
    Progress,
    PublishedModel,
    Report,
    StoredFile,
    Study,
    StudyJob,
    StudyStatus,
    StudyTable,
    Usage,
)


class Identified(BaseModel):
    id: str


T = TypeVar("T", bound=Identified)


class Page(BaseModel, Generic[T]):
    """`after=<last_id>` continues it."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    """Dotted path of the field that is wrong."""
    code: str | None = None


class Envelope(BaseModel):
    """What every answer that is an error looks like."""

    error: ErrorBody


class FileObject(Identified):
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    sha256: str
    lines: int


class Queue(BaseModel):
    """Where a waiting job stands: `position` 1 is the next. `eta_seconds` until it begins, at the
    pace of the jobs before it; None where none of this system has ended yet."""

    position: int
    eta_seconds: float | None = None


class JobObject(Identified):
    """OpenAI's fields, and below them ours."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None = None
    model: str
    fine_tuned_model: str | None
    organization_id: str = ""
    status: str
    error: Failure | None
    training_file: str
    validation_file: str | None
    seed: int
    suffix: str | None
    metadata: dict[str, str]
    method: dict[str, Any]
    hyperparameters: dict[str, Any]
    trained_tokens: int | None = None
    result_files: list[str] = []
    integrations: list[Any] = []

    created_by: str
    """Name of the API key."""
    test_file: str | None
    knowledge_of: str | None
    priority: str
    stage: str | None
    progress: Progress
    queue_position: int | None = None
    queue: Queue | None = None
    usage: Usage
    budget: JobBudget
    attempt: int
    waiting: str | None
    paused_because: str | None
    rationale_set: str | None
    seconds: dict[str, float]
    report: Report | None


class EventObject(Identified):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any]


class Link(BaseModel):
    """A file and a URL that reads it for an hour."""

    name: str
    url: str


class CheckpointMetrics(BaseModel):
    step: float
    valid_accuracy: float | None = None


class CheckpointObject(Identified):
    """A state that training goes on from, or the published student of a job that has succeeded."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: CheckpointMetrics
    method: str
    files: list[Link]


class ModelObject(Identified):
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["qcrd"] = "qcrd"
    job_id: str
    base: str


class ModelWithFiles(ModelObject):
    files: list[Link]


class StudyBase(BaseModel):
    """What the jobs of a study share, as it was given."""

    model: str
    training_file: str
    validation_file: str | None
    test_file: str | None
    suffix: str | None
    metadata: dict[str, str]
    method: dict[str, Any]
    knowledge_of: str | None


class StudySummary(Identified):
    object: Literal["study"] = "study"
    created_at: int
    status: StudyStatus
    job: StudyBase
    methods: list[str]
    seeds: list[int]
    baseline: str
    leader: str
    rationale_set: str | None


class StudyObject(StudySummary):
    jobs: list[StudyJob]
    table: StudyTable | None


def file(stored: StoredFile) -> FileObject:
    return FileObject(
        id=stored.id,
        bytes=stored.bytes,
        created_at=int(stored.created_at),
        filename=stored.filename,
        purpose=stored.purpose,
        sha256=stored.sha256,
        lines=stored.lines,
    )


def job(job: Job, queue: Queue | None = None, estimated_finish: float | None = None) -> JobObject:
    spec = job.spec
    method = spec.wire_method()
    return JobObject(
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
        hyperparameters=method[method["type"]]["hyperparameters"],
        test_file=spec.test_file,
        knowledge_of=spec.knowledge_of,
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


def study(study: Study, status: StudyStatus, rationale_set: str | None) -> StudySummary:
    spec = study.spec
    return StudySummary(
        id=study.id,
        created_at=int(study.created_at),
        status=status,
        job=StudyBase(
            model=spec.job.model,
            training_file=spec.job.training_file,
            validation_file=spec.job.validation_file,
            test_file=spec.job.test_file,
            suffix=spec.job.suffix,
            metadata=spec.job.metadata,
            method=spec.job.wire_method(),
            knowledge_of=spec.job.knowledge_of,
        ),
        methods=[method.value for method in spec.methods],
        seeds=list(spec.seeds),
        baseline=spec.baseline.value,
        leader=study.leader,
        rationale_set=rationale_set,
    )


def event(event: Event) -> EventObject:
    return EventObject(
        id=event.id,
        created_at=int(event.created_at),
        level=event.level,
        message=event.message,
        type=event.type,
        data=event.data,
    )


def model(published: PublishedModel) -> ModelObject:
    return ModelObject(
        id=published.id,
        created=int(published.created_at),
        job_id=published.job_id,
        base=published.base,
    )


def page(items: Sequence[T], *, has_more: bool = False) -> Page[T]:
    return Page[T](
        data=list(items),
        has_more=has_more,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
    )


def error(
    message: str, *, type: str, param: str | None = None, code: str | None = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}
