"""Accuracies with their intervals, and two students on the same questions."""

from __future__ import annotations

from qcrd.records.base import Record


class Accuracy(Record):
    """Share of right answers on `n` test items with its 95 % Wilson interval, all in [0, 1]."""

    accuracy: float
    low: float
    high: float
    n: int
    steps: int | None = None
    """Optimizer steps that this row's student took."""
    tokens: int | None = None
    """Tokens that it read and predicted in them, padding excluded: questions, labels, rationales,
    those too that were only scored. None in reports of before they were counted. Sampling
    negatives and the judge are in `flops` and `seconds` alone."""
    flops: float | None = None
    """Floating-point operations of its training, counted from tokens and parameters."""
    seconds: float | None = None
    answer_tokens: float | None = None
    """Tokens that the student wrote per question, mean; of a vote, of all its outputs together."""


class Comparison(Record):
    """The job's student against another one, question by question on the same `n` of the test.

    `difference` is the method's accuracy less the baseline's; `low` and `high` bound its 95 %
    percentile interval over `draws` paired bootstrap samples; `p` is McNemar's, exact, two-sided.
    All of it is about these two students: of the methods one run of each tells nothing.
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
    seeds_needed: int | None = None
    """Seeds that would find a difference of the methods by 1.5 points with 80 % power, about. One
    more than `MAX_SEEDS_NEEDED` for any larger number, None in reports of before it was told."""

    @property
    def statement(self) -> str:
        """Which student answers more questions right: what was counted, whatever p is."""
        more = self.only_method - self.only_baseline
        test = f"McNemar p = {self.p:.2g}"
        if not more:
            return f"both answer as many questions right ({test})"
        return f"this student answers {'more' if more > 0 else 'fewer'} questions right ({test})"
