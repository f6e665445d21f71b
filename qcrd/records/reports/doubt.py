"""What a report says of a student's doubt: its confidence, and a teacher in its place."""

from __future__ import annotations

from qcrd.records.base import Record


class ReliabilityBin(Record):
    """One of ten equal bins of scores or confidences: `n` of them, their mean, and the share of
    positives, or of right answers, among them; both None in an empty bin."""

    n: int
    score: float | None
    positive: float | None


class DoubtReport(Record):
    """The confidence in a student's answers on `n` test questions, after its calibration on
    `calibrated_on` validation questions.

    `brier` is the mean squared distance between confidence and outcome (Brier 1950), and
    `brier_constant` that of always saying the share of right answers, which knows no doubt.
    `auroc`: the chance that a right answer has more confidence than a wrong one; None without both.
    """

    calibrated_on: int
    n: int
    brier: float
    brier_constant: float
    ece: float
    auroc: float | None
    reliability: tuple[ReliabilityBin, ...]

    @property
    def statement(self) -> str:
        ranked = (
            ""
            if self.auroc is None
            else f", and ranks a right answer above a wrong one in {self.auroc:.0%} of pairs"
        )
        return (
            f"Brier score {self.brier:.3f} ({self.brier_constant:.3f} for always saying the share "
            f"of right answers), calibration error {self.ece:.3f} on {self.n:,} questions"
            f"{ranked}; calibrated on {self.calibrated_on:,} validation questions"
        )


class CascadeReport(Record):
    """A student that hands the questions it is unsure of to its teacher, confirmed on the test set.

    `threshold` is the lowest confidence from which on the lower 95 % bound (Wilson's) of the
    student's agreement with the teacher's vote reaches `wanted` on validation; None, with `reason`,
    where there is none and every question is the teacher's. Of `n` test questions that the teacher
    was asked, the student keeps `kept` and says of `agreeing` what the teacher says; with the
    teacher's answers to the others `right` are right, alone the student has `student_right`, the
    teacher `teacher_right`.
    """

    teacher: str
    wanted: float
    threshold: float | None
    reason: str | None = None
    validation_kept: int = 0
    validation_agreeing: int = 0
    validation_low: float | None = None
    n: int = 0
    kept: int = 0
    agreeing: int = 0
    right: int = 0
    student_right: int = 0
    teacher_right: int = 0
    escalated_per_1000: float | None = None
    """Of a thousand questions like those of the test; None without any."""
    cost_per_1000: float | None = None
    """Of them, at most: each at what a question cost this job with all of its outputs. None where
    the job paid nothing, or no price is known."""
    currency: str | None = None

    @property
    def statement(self) -> str:
        if self.threshold is None:
            return f"every question goes to {self.teacher}: {self.reason}"
        told = (
            f"from a confidence of {self.threshold:.3f} on the student agrees with {self.teacher} "
            f"on {self.validation_agreeing:,} of {self.validation_kept:,} validation questions, "
            f"at least {self.validation_low or 0:.3f} with 95 %"
        )
        if not self.n:
            return told
        cost = (
            ""
            if self.cost_per_1000 is None
            else (f" at {self.cost_per_1000:.4g} {self.currency} at most")
        )
        return (
            f"{told}; of {self.n:,} test questions it keeps {self.kept:,} and agrees on "
            f"{self.agreeing:,}, and {self.right:,} are answered rightly (the student alone "
            f"{self.student_right:,}, the teacher {self.teacher_right:,}); of a thousand "
            f"{self.escalated_per_1000:.0f} go to the teacher{cost}"
        )
