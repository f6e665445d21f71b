"""The job, its report, its events, and the records of files and models."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from qcrd.records.base import Record, StoredRecord
from qcrd.records.rationales import RationaleCounts, RationaleGap, RationaleUse
from qcrd.records.reports.accuracy import Accuracy, Comparison
from qcrd.records.reports.answering import AnsweringReport
from qcrd.records.reports.classes import ClassReport
from qcrd.records.reports.doubt import CascadeReport, DoubtReport, ReliabilityBin
from qcrd.records.reports.serving import CostReport, StudentServing, TeacherServing
from qcrd.records.specs.spec import Budget, JobSpec


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
    """Until the end of the stage, at the pace since its worker claimed the job."""


class Usage(Record):
    """The tokens, GPU time and cost of a job, without the outputs it reused."""

    teacher_prompt_tokens: int = 0
    teacher_completion_tokens: int = 0
    teacher_cached_tokens: int = 0
    """Of the prompt tokens, those that the provider had read before and takes less for."""
    gpu_seconds: float = 0.0
    """Wall seconds of training times the GPUs held meanwhile."""
    estimated: bool = False
    """Whether some of the tokens were counted here, because the teacher did not tell them."""
    cost: float | None = None
    """Of the teacher's tokens; None where no price of the teacher is known."""
    currency: str | None = None
    uncertain: int = 0
    """Teacher tokens that may have been spent besides: the rest of answers that broke off. They
    stay reserved until the provider tells, or until a user releases them."""
    uncertain_cost: float | None = None

    @property
    def teacher_tokens(self) -> int:
        return self.teacher_prompt_tokens + self.teacher_completion_tokens


class ModelRef(Record):
    id: str


class LeakReport(Record):
    """The number of test questions that a student may have memorised in training."""

    n_test: int
    n_leaked: int
    """Questions that occur in training when numbers, case and spacing are ignored."""
    n_exact: int
    """Those of them that occur in training with the same numbers."""
    n_near: int | None = None
    """Questions four fifths of whose word triples are those of a training question, numbers
    included; None where there are too many alike to count, and in reports of before they were."""


class JudgeHistograms(Record):
    """Scores of one version of the judge on held-out rationales, in ten equal bins of [0, 1].

    `scores` counts them by where the rationale is from: `positives`, `student_lag`,
    `teacher_minority`, `fixed` (the paper's Fig. 6).
    """

    scores: dict[str, tuple[int, ...]]
    reliability: tuple[ReliabilityBin, ...]


class Report(Record):
    """The result of a succeeded job, which `qcrd run --report` writes."""

    job_id: str
    status: JobStatus
    test: dict[str, Accuracy]
    test_unseen: dict[str, Accuracy] = Field(default_factory=dict)
    """Accuracy on the test questions that do not occur in training, even with other numbers; empty
    when there is no leak."""
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
    untrained_share: float | None = None
    """Of the training, weighted by its rate, whose negatives the untrained student sampled."""
    comparisons: tuple[Comparison, ...] = ()
    against_teacher: Comparison | None = None
    """The job's student against the teacher's own answers to the test questions that it was asked;
    None where it was asked none, and in reports of before it was told."""
    rationale_use: dict[str, RationaleUse] = Field(default_factory=dict)
    """Of the rows whose students explain, except `single_task`, whose labels follow rationales."""
    rationale_gap: dict[str, RationaleGap] = Field(default_factory=dict)
    """Of the rows whose students learn rationales, where the held-out questions are training ones
    with right and wrong rationales of the teacher."""
    in_force_share: dict[str, float] = Field(default_factory=dict)
    """Of the rows with negatives: share of the questions in which eq. 7 acts, mean over iterations.
    """
    rationale_revision: str | None = None
    """Id of the `Revision` of the rationale set that it was trained with."""
    answering: AnsweringReport | None = None
    """Of a student that answers behind its rationale, as the two behind it of the job's own; None
    in reports of before they were told."""
    doubt: DoubtReport | None = None
    cascade: CascadeReport | None = None
    """None where the spec names no `evaluation.fallback`."""
    advice: str | None = None
    """What to do with the student, in a sentence or two. It and what follows are None in reports
    of before they were given."""
    teacher_serving: TeacherServing | None = None
    student_serving: StudentServing | None = None
    costs: CostReport | None = None
    """None where no price of the teacher is known."""
    classes: ClassReport | None = None
    """None where the test questions share no labels."""
    teacher_only: int | None = None
    """Test questions that the teacher answers rightly and the student does not."""


class JobFailure(Record):
    message: str
    code: str
    param: str | None = None


class Lease(Record):
    """The worker that holds the job. `token` fences writes: only the newest is accepted."""

    token: int = 0
    owner: str = ""
    until: float = 0.0
    counted: float = 0.0
    """Time up to which the owner's work is already in `Job.seconds`."""


class Job(StoredRecord):
    """Times are seconds since the epoch; `seconds` is wall time that workers spent per stage."""

    id: str
    spec: JobSpec
    owner: str = "anonymous"
    """Name of the API key that created it."""
    running_limit: int | None = None
    """Most jobs of this owner that run at once, from the API key that created the job."""
    request_id: str | None = None
    """Id of the request that created it, which its log lines have in every process."""
    status: JobStatus = JobStatus.VALIDATING
    stage: Stage | None = None
    created_at: float
    finished_at: float | None = None
    attempt: int = 0
    lease: Lease = Lease()
    progress: Progress = Progress()
    usage: Usage = Usage()
    budget: Budget = Budget()
    """The spec's budget, until the job is resumed with a larger one."""
    uncertain_released: int | None = None
    """Token of the newest lease whose uncertain tokens a user has released."""
    gpus: int = 0
    """GPUs that its training process holds now."""
    processes: int | None = None
    """Training processes that it was last begun with, on each machine; None before training."""
    micro_batches: int = 1
    """Parts that each training step is computed in; more than one once memory has run out."""
    seconds: dict[str, float] = Field(default_factory=dict)
    rationale_set: str | None = None
    rationale_revision: str | None = None
    """Id of the revision of the set that training uses; None before training."""
    model: str | None = None
    report: Report | None = None
    failure: JobFailure | None = None
    waiting: str | None = None
    """Why a running job makes no progress (the teacher is down); None when it does."""
    waiting_since: float | None = None
    """When it began to wait, over all of its attempts since; None when it does not."""
    paused_because: str | None = None
    """Why the job is paused: a person's request, or an exhausted budget."""
    backoffs: int = 0
    """Back-offs since the job last made progress; they set the length of the next one."""
    sent_at: float | None = None
    """When its message was last queued or is due; None until a worker sends one."""
    concluded: bool = False
    """Whether the finished job was finalized; until then it stays in the index of active jobs.
    Older finished records lack the field and are not in that index."""


class Event(StoredRecord):
    """An entry of a job's event log. `id` is ordered within the job; `data` is type-specific."""

    id: str
    job_id: str
    created_at: float
    level: str = "info"
    """`info`, `warn` or `error`; a later release may have others, which are passed on."""
    type: str = "message"
    """`message` or `metrics`, likewise."""
    message: str
    data: dict[str, Any] = Field(default_factory=dict)


class DataSummary(Record):
    """What the records of a file were found to be. `outputs`: texts of a teacher that came with
    them; `longest_label` in bytes. `is_chat`: in a form of OpenAI's; `is_conversation`: of
    more than one message before the reply."""

    format: str = "jsonl"
    columns: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    """What was done to read it, a sentence each."""
    is_chat: bool = False
    is_conversation: bool = False
    outputs: int = 0
    longest_label: int = 0


class StoredFile(StoredRecord):
    """An uploaded and validated file. `sha256` de-duplicates; `lines` counts records."""

    id: str
    filename: str
    purpose: str
    bytes: int
    created_at: float
    sha256: str
    lines: int
    blob: str | None = None
    """Key of its content; None in older records."""
    owner: str = "anonymous"
    """Name of the API key that uploaded this content first."""
    data: DataSummary = DataSummary()
    expires_at: float | None = None
    """Seconds since the epoch after which it is deleted, unless a job needs it."""


class PublishedModel(StoredRecord):
    id: str
    job_id: str
    created_at: float
    base: str
    files: tuple[str, ...]
