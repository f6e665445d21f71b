"""A study: several methods, each under several seeds, on one rationale set, in one table."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from qcrd.errors import Invalid
from qcrd.records.base import Record, StoredRecord, parse_record
from qcrd.records.job import JobStatus
from qcrd.records.reports.accuracy import Accuracy
from qcrd.records.reports.verdicts import EQUIVALENCE_MARGIN, Verdict
from qcrd.records.specs.spec import Baseline, JobSpec

LABEL_ONLY_METHODS = frozenset({Baseline.FINETUNE, Baseline.FINETUNE_EQUAL_COMPUTE})
"""The methods that use labels only."""
MAX_JOBS = 256
"""Most training runs of a study; a larger number is taken for a mistake."""


class StudySpec(Record):
    """The methods and seeds to compare: `job` under each of them, tested against `baseline`.

    `job.method` has the settings that all methods share; its name and `job.seed` are replaced by
    those of each cell.
    """

    job: JobSpec
    methods: tuple[Baseline, ...]
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = (0,)
    baseline: Baseline = Baseline.FINETUNE_EQUAL_COMPUTE
    equivalence_margin: float = Field(default=EQUIVALENCE_MARGIN, gt=0, le=0.5)
    """Differences of accuracy below it are taken for none, as a share. Set it before any result is
    known."""

    @field_validator("job", mode="before")
    @classmethod
    def parse_job(cls, data: Any) -> Any:
        """Parse the body of a job; errors name the field by its path in the study, `job.…`."""
        if not isinstance(data, dict):
            return data
        try:
            return parse_record(
                JobSpec, {name: value for name, value in data.items() if value is not None}
            )
        except Invalid as error:
            raise prefix_error_path("job", error) from error

    @model_validator(mode="after")
    def validate_comparison(self) -> Self:
        _check_distinct("methods", self.methods)
        _check_distinct("seeds", self.seeds)
        if self.baseline not in self.methods:
            raise Invalid(
                f"`baseline`: {self.baseline.value!r} is none of the study's methods: add it to "
                f"`methods`, or name one of {', '.join(self.methods)}",
                param="baseline",
            )
        if len(self.methods) * len(self.seeds) > MAX_JOBS:
            raise Invalid(
                f"`seeds`: {len(self.methods)} methods × {len(self.seeds)} seeds are more than "
                f"{MAX_JOBS} runs: take fewer",
                param="seeds",
            )
        if self.job.settings.baselines:
            raise Invalid(
                "`job.method`: a study has no `baselines` besides its methods: list them in "
                "`methods` instead",
                param=f"job.method.{self.job.method}.baselines",
            )
        if Baseline.FINETUNE_EQUAL_COMPUTE in self.methods and self.compute_reference is None:
            raise Invalid(
                "`methods`: finetune_equal_compute spends what another method of the same seed "
                "spent, and there is none: add one that learns from rationales, such as `qcrd`",
                param="methods",
                code="no_reference",
            )
        return self

    @property
    def compute_reference(self) -> Baseline | None:
        """The method whose compute `finetune_equal_compute` gets: qcrd, else the last one that
        uses rationales."""
        if Baseline.QCRD in self.methods:
            return Baseline.QCRD
        return next((m for m in reversed(self.methods) if m not in LABEL_ONLY_METHODS), None)


def prefix_error_path(root: str, error: Invalid) -> Invalid:
    """`error` with the path of its field prefixed by `root`."""
    if error.param is None:
        return error
    path = f"{root}.{error.param}"
    message = error.message.replace(f"`{error.param}`", f"`{path}`")
    return Invalid(message, param=path, code=error.code)


def _check_distinct(param: str, values: Sequence[Any]) -> None:
    if not values:
        raise Invalid(f"`{param}` is empty: name at least one", param=param)
    for index, value in enumerate(values):
        if value in values[:index]:
            path = f"{param}.{index}"
            raise Invalid(f"`{path}`: {value} is there twice", param=path)


class StudyCell(Record):
    """One method under one seed: row `row` of the report of job `job_id`."""

    method: Baseline
    seed: int
    job_id: str
    row: str


class Study(StoredRecord):
    """A study's record, written once before its jobs are created, with their future ids.

    `leader` is the job that assembles the rationale set for all of them. The study's progress is
    not stored but read from its jobs.
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
    seed: int
    status: JobStatus | None
    stage: str | None = None
    percent: float = 0.0
    waiting: str | None = None
    error: str | None = None
    rationale_set: str | None = None


class SeedAccuracy(Record):
    seed: int
    accuracy: float


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
