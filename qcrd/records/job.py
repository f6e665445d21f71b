"""The job, its report, and what else the system keeps."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from qcrd.records.base import Record
from qcrd.records.rationales import RationaleCounts
from qcrd.records.spec import Budget, JobSpec


class JobStatus(StrEnum):
    VALIDATING = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Stage(StrEnum):
    ASSEMBLING = "assembling"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"


class Progress(Record):
    """`percent` of the current stage in [0, 100]; steps are the stage's own unit of work."""

    percent: float = 0.0
    step: int = 0
    total_steps: int = 0
    eta_seconds: float | None = None
    """Until the end of the stage, at the pace since its worker claimed it."""


class Usage(Record):
    """What a job has spent itself; outputs that others had paid for are not in it."""

    teacher_prompt_tokens: int = 0
    teacher_completion_tokens: int = 0
    gpu_seconds: float = 0.0
    """Wall seconds of training times the GPUs held meanwhile."""
    cost: float | None = None
    """Of the teacher's tokens; None where the configuration gives the teacher no prices."""
    currency: str | None = None

    @property
    def teacher_tokens(self) -> int:
        return self.teacher_prompt_tokens + self.teacher_completion_tokens


class Accuracy(Record):
    """Share of right answers on `n` test items with its 95 % Wilson interval, all in [0, 1]."""

    accuracy: float
    low: float
    high: float
    n: int
    steps: int | None = None
    """Optimizer steps that this row's student took."""
    flops: float | None = None
    """Floating-point operations of its training, counted from tokens and parameters."""
    seconds: float | None = None


class ModelRef(Record):
    id: str


class LeakReport(Record):
    """How many test questions a student can have learned by heart from the training questions."""

    n_test: int
    n_leaked: int
    """Whose story occurs in training once numbers, case and spacing are set aside."""
    n_exact: int
    """Of these, the ones whose whole text does, numbers included."""


class Comparison(Record):
    """The job's method against another student, question by question on the same `n` of the test.

    `difference` is the method's accuracy less the baseline's; `low` and `high` bound its 95 %
    percentile interval over `draws` paired bootstrap samples; `p` is McNemar's, exact, two-sided.
    """

    method: str
    baseline: str
    n: int
    only_method: int
    """Questions that the method got right and the baseline did not."""
    only_baseline: int
    difference: float
    low: float
    high: float
    p: float
    seed: int
    draws: int

    @property
    def verdict(self) -> str:
        """In words; an interval that holds 0 shows no difference, whichever way it leans."""
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "better" if self.difference > 0 else "worse"


class ReliabilityBin(Record):
    """One of ten equal bins of the judge's scores: `n` of them, their mean, and the share of
    positives among them; both None in an empty bin."""

    n: int
    score: float | None
    positive: float | None


class JudgeHistograms(Record):
    """Held-back scores of one version of the judge, in ten equal bins of [0, 1] from low to high.

    `scores` counts them by where the rationale is from: `positives`, `student_lag`,
    `teacher_minority`, `fixed` (the paper's Fig. 6).
    """

    scores: dict[str, tuple[int, ...]]
    reliability: tuple[ReliabilityBin, ...]


class Report(Record):
    """What `qcrd run --report` writes and the job carries when it has succeeded."""

    job_id: str
    status: JobStatus
    test: dict[str, Accuracy]
    test_unseen: dict[str, Accuracy] = Field(default_factory=dict)
    """The same on the test questions that do not occur in training under other numbers; empty
    when all are such."""
    validation: dict[str, Accuracy] = Field(default_factory=dict)
    rationales: RationaleCounts
    usage: Usage
    model: ModelRef
    seconds: dict[str, float]
    seed: int
    judge: dict[str, float] = Field(default_factory=dict)
    """Health of the judge at the end of the run (`qcrd.method.judge.health.numbers`), and under
    `pretrained_` what it was before the first iteration."""
    notes: tuple[str, ...] = ()
    leak: LeakReport | None = None
    """None without a test file."""
    comparisons: tuple[Comparison, ...] = ()
    rationale_revision: str | None = None
    """The edits of its rationale set that it was trained with (`qcrd.records.Revision`)."""


class JobFailure(Record):
    message: str
    code: str
    param: str | None = None


class Lease(Record):
    """Who works on the job. `token` fences writes: only the newest one is accepted."""

    token: int = 0
    owner: str = ""
    until: float = 0.0
    counted: float = 0.0
    """Up to when the holder's time is already in `Job.seconds`."""


class Job(Record):
    """Times are seconds since the epoch; `seconds` is wall time that workers spent per stage."""

    id: str
    spec: JobSpec
    owner: str = "anonymous"
    """Name of the API key that created it."""
    running_limit: int | None = None
    """Most jobs of this owner that may run at once, as the key said when the job was created."""
    request_id: str | None = None
    """Of the request that created it: what its log lines carry in every process."""
    status: JobStatus = JobStatus.VALIDATING
    stage: Stage | None = None
    created_at: float
    finished_at: float | None = None
    attempt: int = 0
    lease: Lease = Lease()
    progress: Progress = Progress()
    usage: Usage = Usage()
    budget: Budget = Budget()
    """The spec's, until somebody resumed the job with a larger one."""
    gpus: int = 0
    """That its training process holds now."""
    seconds: dict[str, float] = Field(default_factory=dict)
    rationale_set: str | None = None
    rationale_revision: str | None = None
    """The set's edits that training began with, and goes on with; None before it began."""
    model: str | None = None
    report: Report | None = None
    failure: JobFailure | None = None
    waiting: str | None = None
    """Why a running job is not getting on (a teacher that is down), None when it does."""
    paused_because: str | None = None
    """What a paused job waits for: a person's request, or a larger budget."""
    backoffs: int = 0
    """Waits for something outside since the job last got on; they set how long the next one is."""
    sent_at: float | None = None
    """When its message was last queued, or falls due; None until a worker sends one."""
    concluded: bool = False
    """Whether the end of a job that is over has been told and archived; it stays active till then.
    Records older than this field are over without it, and in no index that would have it tell."""


class Event(Record):
    """One line of a job's history. `id` is ordered within the job; `data` is type-specific."""

    id: str
    job_id: str
    created_at: float
    level: Literal["info", "warn", "error"] = "info"
    type: Literal["message", "metrics"] = "message"
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class StoredFile(Record):
    """An uploaded file, validated on arrival. `sha256` de-duplicates; `lines` counts records."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: float
    sha256: str
    lines: int
    blob: str | None = None
    """Key of its bytes; None in records from before uploads were streamed."""
    owner: str = "anonymous"
    """Name of the API key that uploaded this content first."""


class PublishedModel(Record):
    id: str
    job_id: str
    created_at: float
    base: str
    files: tuple[str, ...]
