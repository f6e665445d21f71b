"""What a report says of a student that answers behind its rationale."""

from __future__ import annotations

from pydantic import Field

from qcrd.records.base import Record
from qcrd.records.reports.accuracy import Accuracy, Comparison


class RationaleSwap(Record):
    """Whether the answer follows from the rationale: of `n` test questions how many are answered
    rightly behind the student's own rationale, with none, and behind that of another question."""

    n: int
    right_with_own: int
    right_without: int
    right_with_other: int

    @property
    def statement(self) -> str:
        return (
            f"of {self.n:,} questions {self.right_with_own:,} are answered rightly behind the "
            f"student's own rationale, {self.right_without:,} behind none, and "
            f"{self.right_with_other:,} behind another question's"
        )


class JudgedAnswers(Record):
    """A judge of outputs with their answer in sight, trained on the finished student's own.

    `useful`: on validation its best of the samples is above both their vote and the greedy answer,
    each with a paired 95 % interval above zero; `reason` says what is missing where it is not.
    """

    judge: str
    """Its id at the discriminator, which keeps it."""
    version: int
    useful: bool
    reason: str | None = None
    trained_on: int = 0
    """Questions with right and wrong outputs."""
    health: dict[str, float] = Field(default_factory=dict)
    """On held-out questions (`qcrd.method.judge.health`)."""
    validation: tuple[Comparison, ...] = ()

    @property
    def statement(self) -> str:
        if self.reason is not None:
            return f"no help: {self.reason}"
        auc = self.health.get("auc")
        told = "" if auc is None else f", AUC {auc:.2f} on held-out questions"
        return f"its best output is above vote and greedy answer on validation{told}"


class AnsweringReport(Record):
    """Other ways to answer, on the test questions. `rows`: `vote` of `samples` outputs, and with a
    judge `best_of` them and the vote `weighted` by its scores."""

    swap: RationaleSwap | None = None
    """None without a test file."""
    samples: int = 0
    temperature: float | None = None
    rows: dict[str, Accuracy] = Field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()
    """Each row against the greedy answer."""
    judged: JudgedAnswers | None = None
    """None where no judge of answers was asked for."""
