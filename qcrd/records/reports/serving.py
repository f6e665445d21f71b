"""What answering takes: of the teacher, of the student, and in money."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from qcrd.records.base import Record


class AnswerTimes(Record):
    """Seconds from a request to its whole answer, of `requests` with at most `concurrency` at once:
    the median and the 95th percentile, and the answers per second of all of them together."""

    requests: int
    concurrency: int
    p50: float
    p95: float
    per_second: float

    @classmethod
    def measure(cls, seconds: Sequence[float], *, concurrency: int, per_second: float) -> Self:
        """Of at least one request; percentiles are nearest ranks."""
        ordered = sorted(seconds)
        p50, p95 = (ordered[math.ceil(share * len(ordered)) - 1] for share in (0.5, 0.95))
        return cls(
            requests=len(ordered), concurrency=concurrency, p50=p50, p95=p95, per_second=per_second
        )

    @property
    def statement(self) -> str:
        return (
            f"{format_seconds(self.p50)} at the median and {format_seconds(self.p95)} at the 95th "
            f"percentile of {self.requests:,} requests, {self.concurrency} at once: "
            f"{self.per_second:.3g} answers a second"
        )


class TeacherServing(Record):
    """What the teacher took for the `questions` of the test file, each with its `test_samples`
    outputs, by whichever job they were paid. `times` are of all requests of this job's asking,
    waiting at the teacher's included; None where every output was there already or came by batch.
    """

    times: AnswerTimes | None = None
    timed: tuple[AnswerTimes, ...] = ()
    """Of requests made for their times alone (`evaluation.time_teacher`)."""
    questions: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    """Of these tokens, without discounts for what a provider had read before; None where no price
    is known."""
    outputs_cost: float | None = None
    """Of all outputs of the set, the training questions' too, in the same way."""
    currency: str | None = None


class StudentServing(Record):
    """The published student on the machine that trained it: `times` of test questions asked one
    after another, and the questions per second of all of them in batches."""

    times: AnswerTimes
    batched_per_second: float
    device: str
    processes: int = 1
    weight_bytes: int

    @property
    def statement(self) -> str:
        return (
            f"{self.times.statement}; {self.batched_per_second:.3g} a second in batches, on the "
            f"trainer's {self.device}; {self.weight_bytes / 1e6:,.0f} MB of weights in memory"
        )


class CostReport(Record):
    """Money for a thousand questions, and after how many the run has paid for itself.

    The teacher's cost is that of its answers to the test questions, the student's that of its
    machine while it answers in batches, at `evaluation.machine_cost_per_hour`. `run` is the price
    of all the teacher's outputs, whichever job paid them, and of the training at the same price of
    the machine. Without that price the machine is left out of all, as `counts_machine` says.
    """

    currency: str
    counts_machine: bool
    teacher_per_1000: float
    student_per_1000: float
    run: float
    pays_after: int | None
    """Questions; None where the student costs no less than its teacher."""

    @property
    def statement(self) -> str:
        told = (
            f"a thousand answers cost {self.teacher_per_1000:.3g} {self.currency} of the teacher "
            f"and {self.student_per_1000:.3g} of the student; the run cost {self.run:.3g}"
        )
        if self.pays_after is None:
            told += ", which the student never earns back"
        elif self.run:
            told += f", which it has earned back after {self.pays_after:,} questions"
        if self.counts_machine:
            return told
        return f"{told}; without the machine (`evaluation.machine_cost_per_hour`)"


def format_seconds(seconds: float) -> str:
    """`38 ms`, `1.2 s`."""
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
