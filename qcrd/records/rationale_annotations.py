"""Edits and judge scores of a rationale set, added after it was assembled."""

from __future__ import annotations

from enum import StrEnum

from qcrd.records.base import Record, StoredRecord
from qcrd.records.rationales import RationaleSource


class Polarity(StrEnum):
    POSITIVE = "positive"
    NEGATIVE = "negative"


class RationaleEdit(StoredRecord):
    """One person's edit of one item. None: not changed by this edit.

    `id` sorts after those of the item's edits that its author could have seen.
    """

    id: str
    item_id: str
    excluded: bool | None = None
    text: str | None = None
    answer: str | None = None
    reason: str | None = None
    by: str
    at: float
    """Seconds since the epoch."""


class Correction(Record):
    """An item's edits folded into one, the latest value of each field; None: as it was."""

    excluded: bool = False
    text: str | None = None
    answer: str | None = None
    edits: int = 0


class Revision(StoredRecord):
    """The edits of a set at one moment, by item and in order. `id` is a digest of their keys, so
    equal ids mean equal edits."""

    id: str
    edits: tuple[RationaleEdit, ...] = ()


class RationaleScore(Record):
    """The score, in (0, 1), that a job's final judge gives one rationale.

    `rationale_id` is that of the scored text. `text` is given where the set does not have it:
    a sample of an earlier student, for the last iteration of training.
    """

    rationale_id: str
    question_id: str
    polarity: Polarity
    source: RationaleSource
    score: float
    text: str | None = None


class RationaleScoreManifest(StoredRecord):
    """The manifest of a job's scores of a set; written last, so they exist if it does."""

    job_id: str
    version: int
    """Of the judge: 1 pretrained, t + 2 updated in iteration t."""
    scores: str
    """Key of its `RationaleScore` lines."""
    revision: str
    """Of the edits under which the job was trained."""
    created_at: float
