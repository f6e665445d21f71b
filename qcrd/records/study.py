"""A study's record and its table: several methods, each under several seeds."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from qcrd.records.base import Record, StoredRecord
from qcrd.records.job import JobStatus
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.reports.verdicts import EQUIVALENCE_MARGIN, Verdict
from qcrd.records.specs.spec import Baseline
from qcrd.records.specs.study_spec import StudySpec


class StudyCell(Record):
    """One row of the table under one seed and trial: row `row` of the report of job `job_id`."""

    method: Baseline
    seed: int
    job_id: str
    row: str
    name: str | None = None
    """Of the row in the study's table; None where it is the method's."""
    trial: int = 0

    @property
    def row_name(self) -> str:
        return self.name or self.method.value


class Study(StoredRecord):
    """A study's record, written once before its jobs are created, with their future ids.

    `leader` is the job that assembles the rationale set, for all of them but rows with settings of
    their own for it. The study's progress is not stored but read from its jobs.
    """

    id: str
    created_at: float
    spec: StudySpec
    leader: str
    cells: tuple[StudyCell, ...]
    owner: str = "anonymous"
    """Name of the API key that created it."""


class StudyStatus(StrEnum):
    """`incomplete`: all jobs have finished and only some succeeded; `failed`: none did."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    INCOMPLETE = "incomplete"
    FAILED = "failed"


class StudyJob(Record):
    """The current state of a study's job. `status` None: there is no record of the job."""

    id: str
    method: str
    """Name of its row in the table."""
    seed: int
    trial: int | None = None
    """None where the study has no trials."""
    status: JobStatus | None
    stage: str | None = None
    percent: float = 0.0
    waiting: str | None = None
    error: str | None = None
    rationale_set: str | None = None


class SeedAccuracy(Record):
    """`trial` is the one that was best on validation, where the study has trials."""

    seed: int
    accuracy: float
    trial: int | None = None


class SeedTest(Record):
    """McNemar's exact two-sided test on the test questions of one seed.

    `p_holm` is `p` corrected for the number of methods tested under this seed.
    """

    seed: int
    only_method: int
    only_baseline: int
    p: float
    p_holm: float


class SeedsTest(Record):
    """The paired t test over seeds of a method's differences to the baseline, which decides.

    `low` and `high` bound the mean's 95 % t interval. `p` is two-sided, of no difference;
    `equivalence_p` of a difference of the study's margin or more (two one-sided tests). Each is
    corrected for the comparisons of the study in `…_holm`; with too few seeds for a verdict that
    is 1.
    """

    low: float
    high: float
    p: float
    p_holm: float
    equivalence_p: float
    equivalence_p_holm: float


class StudyComparison(Record):
    """A method against the baseline, question by question, averaged over the seeds of both.

    `difference` is the method's accuracy less the baseline's. The verdict rests on `over_seeds`
    alone. Beside it, deciding nothing: `low` and `high` bound the 95 % percentile interval over
    `draws` bootstrap samples of the seeds and the `n` test questions, `p` is two-sided, from the
    same samples, and `p_holm` corrected for the study's comparisons; `by_seed` are McNemar's tests.
    """

    seeds: tuple[int, ...]
    n: int
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    draws: int
    by_seed: tuple[SeedTest, ...]
    over_seeds: SeedsTest | None = None
    """None below two seeds, and where the difference is the same under all of them."""
    verdict: Verdict = Verdict.CANNOT_TELL
    seeds_needed: int | None = None
    """Of "cannot tell": seeds that would find a difference of the margin with 80 % power, about.
    One more than `MAX_SEEDS_NEEDED` for any larger number, None where the scatter is not known."""


class StudyRow(Record):
    """The results of one method: means over its `n` succeeded seeds of `of`.

    `interval` says what `low` and `high` bound: `t` the mean over seeds (95 %, over the seeds'
    scatter), `wilson` the accuracy of the only seed (95 %, over test questions).
    """

    method: str
    n: int
    of: int
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    interval: Literal["t", "wilson"] | None = None
    by_seed: tuple[SeedAccuracy, ...] = ()
    validation: float | None = None
    steps: float | None = None
    tokens: float | None = None
    flops: float | None = None
    seconds: float | None = None
    teacher_tokens: float | None = None
    """Of the outputs that its rationales come from, also where they were kept from before; without
    the teacher's answers to test questions. None where the labels alone are read, or outputs were
    imported."""
    given_rationale: float | None = None
    """Accuracy of the label behind the student's own rationale."""
    rationale_gap: float | None = None
    """Cross entropy of held-back wrong rationales less that of right ones, nats per token."""
    in_force_share: float | None = None
    """Of the questions with negatives, those where eq. 7 acts, mean over iterations."""
    comparison: StudyComparison | None = None
    """None for the baseline, and without common predictions."""


class StudyTable(Record):
    """`measured` names the questions that `accuracy` is on. `references` are the rows that no
    training changes: the teacher's own answers, and the majority class."""

    measured: Literal["test", "validation"]
    questions: int | None
    baseline: str
    rows: tuple[StudyRow, ...]
    equivalence_margin: float = EQUIVALENCE_MARGIN
    references: dict[str, Accuracy] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
