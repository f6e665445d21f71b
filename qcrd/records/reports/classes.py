"""A student's test answers by their gold label."""

from __future__ import annotations

from qcrd.records.base import Record


class ClassResult(Record):
    """Of `n` test questions with this gold label the student answered `right` rightly, and it gave
    the label `answered` times among all of them."""

    label: str
    n: int
    right: int
    answered: int


class Confusion(Record):
    """How often one wrong answer was given to questions of one label; None: no readable answer."""

    gold: str
    answer: str | None
    n: int


class ClassReport(Record):
    """Of a task whose test questions share few labels; both lists with the most telling first."""

    classes: tuple[ClassResult, ...]
    confusions: tuple[Confusion, ...]
