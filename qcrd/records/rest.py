"""Responses of the REST API: the shapes of OpenAI's, extended but never changed."""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from qcrd.records.job import JobFailure, Progress, Report, Usage
from qcrd.records.specs.spec import Budget as JobBudget
from qcrd.records.specs.study_rows import StudyMethod
from qcrd.records.study import StudyJob, StudyStatus, StudyTable


class ApiObject(BaseModel):
    id: str


ObjectT = TypeVar("ObjectT", bound=ApiObject)


class Page(BaseModel, Generic[ObjectT]):
    """`after=<last_id>` continues it."""

    object: Literal["list"] = "list"
    data: list[ObjectT]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class DeleteResponse(BaseModel):
    id: str
    object: str
    deleted: Literal[True] = True


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None = None
    """Dotted path of the field that is wrong."""
    code: str | None = None


class ErrorResponse(BaseModel):
    """The body of every error response."""

    error: ErrorBody


class FileObject(ApiObject):
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int | None = None
    status: Literal["processed"] = "processed"
    sha256: str
    lines: int
    format: str = "jsonl"
    columns: list[str] = []
    notices: list[str] = []
    """What was done to read it, a sentence each."""


class QueuePosition(BaseModel):
    """A waiting job's place in the queue: `position` 1 is the next. `eta_seconds` until it begins,
    at the pace of earlier jobs; None before the first of this system has ended."""

    position: int
    eta_seconds: float | None = None


class FineTuningJob(ApiObject):
    """OpenAI's fields, then our own."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None = None
    model: str
    fine_tuned_model: str | None
    organization_id: str = ""
    status: str
    error: JobFailure | None
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
    after: str | None = None
    priority: str
    stage: str | None
    progress: Progress
    queue_position: int | None = None
    queue: QueuePosition | None = None
    usage: Usage
    budget: JobBudget
    attempt: int
    waiting: str | None
    paused_because: str | None
    rationale_set: str | None
    seconds: dict[str, float]
    report: Report | None


class FineTuningJobEvent(ApiObject):
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Annotated[str, Field(examples=["info", "warn", "error"])]
    message: str
    type: Annotated[str, Field(examples=["message", "metrics"])]
    """A release beside this one may write others, which are passed on."""
    data: dict[str, Any]


class FileLink(BaseModel):
    """A file and a URL that reads it for an hour."""

    name: str
    url: str


class CheckpointMetrics(BaseModel):
    step: float
    valid_accuracy: float | None = None


class FineTuningJobCheckpoint(ApiObject):
    """A state that training goes on from, or the published student of a job that has succeeded."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: CheckpointMetrics
    method: str
    files: list[FileLink]


class JobPrediction(ApiObject):
    """What one row's student says to one test question, and its teacher. `text` is its whole
    output; `answer` and `gold` are in canonical form."""

    object: Literal["fine_tuning.job.prediction"] = "fine_tuning.job.prediction"
    method: str
    question_id: str
    question: str | None
    text: str
    answer: str | None
    gold: str
    right: bool
    confidence: float | None
    teacher_answer: str | None
    teacher_right: bool | None
    """None where the teacher was not asked."""


class ModelObject(ApiObject):
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["qcrd"] = "qcrd"
    job_id: str
    base: str


class ModelWithFiles(ModelObject):
    files: list[FileLink]


class StudyJobTemplate(BaseModel):
    """The settings that all jobs of a study share, as in the request."""

    model: str
    training_file: str
    validation_file: str | None
    test_file: str | None
    suffix: str | None
    metadata: dict[str, str]
    method: dict[str, Any]
    knowledge_of: str | None


class StudySummary(ApiObject):
    object: Literal["study"] = "study"
    created_at: int
    status: StudyStatus
    job: StudyJobTemplate
    methods: list[str]
    """Names of the table's rows."""
    rows: list[StudyMethod]
    """The same, with what each trains and its own settings."""
    seeds: list[int]
    trials: list[dict[str, Any]]
    baseline: str
    leader: str
    rationale_set: str | None


class StudyObject(StudySummary):
    jobs: list[StudyJob]
    table: StudyTable | None
