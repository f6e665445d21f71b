"""What people and judges have said of a rationale set after it was assembled."""

from __future__ import annotations

from enum import StrEnum

from qcrd.records.base import Record
from qcrd.records.rationales import RationaleSource


class Polarity(StrEnum):
    POSITIVE = "positive"
    NEGATIVE = "negative"


class RationaleEdit(Record):
    """One change that one person made to one item. None: not touched by this change.

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


class Revision(Record):
    """The edits that a set had at one moment, by item and in order. `id` is a digest of their
    names: equal ids are equal edits."""

    id: str
    edits: tuple[RationaleEdit, ...] = ()


class RationaleScore(Record):
    """What a job's final judge says of one rationale, in (0, 1).

    `rationale_id` is that of the text which was judged. `text` is given where the set does not
    have it: an earlier student said it, for the last iteration of the training.
    """

    rationale_id: str
    question_id: str
    polarity: Polarity
    source: RationaleSource
    score: float
    text: str | None = None


class RationaleScoreManifest(Record):
    """Written last, beside the set: a job's scores of it exist when this does."""

    job_id: str
    version: int
    """Of the judge: 1 pretrained, t + 2 updated in iteration t."""
    scores: str
    """Key of its `RationaleScore` lines."""
    revision: str
    """Of the edits under which the job was trained."""
    created_at: float
