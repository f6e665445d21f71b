"""What a job measures of its finished student besides its greedy answers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, model_validator

from qcrd.records.base import Record


class FallbackSpec(Record):
    """A cascade: the questions that the student is unsure of go to the teacher. Its threshold is
    the lowest confidence from which on the lower 95 % bound of the student's agreement with the
    teacher's vote reaches `agreement` on validation."""

    agreement: Annotated[float, Field(gt=0, lt=1)]
    """What is wanted of the answers that the student keeps."""
    teacher: str | None = None
    """Who is asked then: a name in the server's configuration. None: the job's teacher."""


class EvaluationSpec(Record):
    """What is measured of the finished student besides its greedy answers."""

    samples: Annotated[int, Field(ge=0, le=32)] = 0
    """Outputs drawn of each validation and test question, of a student that answers behind its
    rationale: the report then has their vote beside the greedy answer. 0 or 2 and more."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 0.7
    """Of that sampling."""
    judge: StrictBool = False
    """Whether a judge with the answer in sight is trained on right and wrong outputs of the
    finished student, to choose among its samples; it is offered only where that helps."""
    fallback: FallbackSpec | None = None
    """A teacher that answers what the student is unsure of."""
    time_teacher: StrictBool = False
    """Whether the teacher is asked 24 test questions once more at the end, eight one after another
    and sixteen eight at once: what the report says of its speed is else of all requests together.
    """
    machine_cost_per_hour: Annotated[float | None, Field(ge=0)] = None
    """Of the machine that trains and serves the student, in the currency of the teacher's prices:
    the report then says what a thousand answers cost and after how many the run is paid for."""

    @model_validator(mode="after")
    def check_samples(self) -> EvaluationSpec:
        if self.samples == 1:
            raise ValueError("`samples`: one output has no vote; 0, or 2 and more")
        if self.judge and not self.samples:
            raise ValueError("`judge` chooses among several outputs: give `samples` too, such as 4")
        return self
