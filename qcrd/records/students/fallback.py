"""A teacher that answers what a published student is unsure of."""

from __future__ import annotations

from pydantic import ConfigDict

from qcrd.records.base import Record
from qcrd.records.specs.rationale_spec import RationaleSpec
from qcrd.records.specs.task import TaskSpec


class Fallback(Record):
    """Below `threshold` a question is the teacher's to answer; of one above 1 all are. `task` and
    `rationales` say how the student's job asked it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    teacher: str
    threshold: float
    task: TaskSpec = TaskSpec()
    rationales: RationaleSpec = RationaleSpec()
