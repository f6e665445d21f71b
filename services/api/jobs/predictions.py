"""What a job's students answered to its test questions, one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from qcrd.errors import Conflict, Invalid
from qcrd.records.job import Job
from qcrd.records.rationales import Prediction
from qcrd.records.rest import JobPrediction
from qcrd.runtime import keys
from qcrd.runtime.storage.json_lines import read_lines_from
from qcrd.runtime.storage.store import Store

ID_PREFIX = "prediction-"


@dataclass(frozen=True)
class PredictionFilter:
    """None lets all through. `label` is a gold label in canonical form."""

    method: str | None = None
    right: bool | None = None
    teacher_right: bool | None = None
    label: str | None = None

    def lets_through(self, prediction: JobPrediction) -> bool:
        wanted = (
            (self.method, prediction.method),
            (self.right, prediction.right),
            (self.teacher_right, prediction.teacher_right),
            (self.label, prediction.gold),
        )
        return all(value is None or value == found for value, found in wanted)


def list_predictions(
    store: Store, job: Job, wanted: PredictionFilter, after: str | None, limit: int
) -> list[JobPrediction]:
    """At most `limit`, in the order of the rows and of the test file. `Conflict` while the job has
    none; `Invalid` for an `after` that is no prediction's id."""
    if job.report is None:
        raise Conflict(
            f"job {job.id} is {job.status} and has no predictions: they come with its report"
        )
    first = _read_place(after) + 1
    found = (
        serialized
        for place, prediction in read_lines_from(
            store, keys.job_predictions_key(job.id), Prediction, first
        )
        if wanted.lets_through(serialized := _serialize(place, prediction))
    )
    return list(islice(found, limit))


def _read_place(after: str | None) -> int:
    if after is None:
        return -1
    number = after.removeprefix(ID_PREFIX)
    if not after.startswith(ID_PREFIX) or not re.fullmatch(r"[0-9]{1,15}", number):
        raise Invalid(f"`after`: {after[:80]!r} is no prediction's id", param="after")
    return int(number)


def _serialize(place: int, prediction: Prediction) -> JobPrediction:
    asked = prediction.teacher_asked
    return JobPrediction(
        id=f"{ID_PREFIX}{place}",
        method=prediction.method or "",
        question_id=prediction.question_id,
        question=prediction.question,
        text=prediction.text,
        answer=prediction.answer,
        gold=prediction.gold,
        right=prediction.right,
        confidence=prediction.confidence,
        teacher_answer=prediction.teacher_answer,
        teacher_right=prediction.teacher_answer == prediction.gold if asked else None,
    )
