"""Rationale sets as the REST API shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from qcrd.records.rationale_annotations import Polarity, RationaleEdit, RationaleScoreManifest
from qcrd.records.rationales import (
    RationaleCounts,
    RationaleLengths,
    RationaleManifest,
    RationaleSource,
)
from qcrd.records.rest import ApiObject
from services.api.rationale_sets.filtering import ItemFilter, RationaleSetView

MAX_TEXT_LENGTH = 32_768
"""Characters of an edited rationale: 8,192 tokens, the longest teacher output."""

RationaleText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH, pattern=r"\S")]


class ItemQuery(ItemFilter):
    after: str | None = None
    """Id of the item after which the page begins."""
    limit: Annotated[int, Field(ge=1, le=1000)] = 20


class ExportQuery(ItemFilter):
    format: Literal["items", "questions"] = "items"
    """`questions`: a questions file with outputs, as `rationales.import` takes it."""


class EditRequest(BaseModel):
    """Changes of an item; a field that is left out or null stays as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    excluded: StrictBool | None = None
    text: RationaleText | None = None
    answer: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"\S")] | None = None
    reason: Annotated[str, Field(max_length=4096)] | None = None


class RationaleSetSummary(ApiObject):
    object: Literal["rationale_set"] = "rationale_set"
    created_at: int
    job_id: str | None
    teacher: str | None
    training_file: str | None
    counts: RationaleCounts
    words: RationaleLengths | None = None
    """Counts at assembling, without later edits."""


class JudgeScoring(BaseModel):
    """A job whose judge scored the set; `revision` is that of the edits it was trained with."""

    job_id: str
    version: int
    revision: str
    created_at: int


class EditSummary(BaseModel):
    """`revision` names these edits: a job that begins now trains with them. `items` were edited,
    and of them so many are `excluded` and `reworded` now."""

    revision: str
    edits: int
    items: int
    excluded: int
    reworded: int


class RationaleSetObject(RationaleSetSummary):
    items: int
    shards: int
    edits: EditSummary
    judges: list[JudgeScoring]


class ItemVote(BaseModel):
    answer: str | None
    margin: float
    tie: bool
    counts: dict[str, int]
    unparseable: int


class OriginalText(BaseModel):
    text: str
    answer: str | None


class ItemObject(BaseModel):
    """One rationale with its question. `original` is the teacher's text, where an edit changed
    it; `score` is null where `judge` did not score this text."""

    id: str
    object: Literal["rationale_set.item"] = "rationale_set.item"
    rationale_set: str
    rationale_id: str
    question_id: str
    question: str
    choices: list[str]
    label: str | None
    gold: str | None
    polarity: Polarity
    source: RationaleSource
    text: str
    answer: str | None
    vote: ItemVote
    margin: float
    tie: bool
    score: float | None
    excluded: bool
    edits: int
    original: OriginalText | None


class ItemEditObject(BaseModel):
    id: str
    by: str
    at: float
    excluded: bool | None
    text: str | None
    answer: str | None
    reason: str | None


class ItemWithHistory(ItemObject):
    history: list[ItemEditObject]
    """Every edit of it, oldest first."""


class ItemPage(BaseModel):
    """May hold fewer than `limit` items before the last page: see `has_more`."""

    object: Literal["list"] = "list"
    data: list[ItemObject]
    has_more: bool
    first_id: str | None
    last_id: str | None
    judge: JudgeScoring | None
    """The job whose judge gave these scores."""


def serialize_set_summary(manifest: RationaleManifest) -> RationaleSetSummary:
    return RationaleSetSummary(
        id=manifest.id,
        created_at=int(manifest.created_at),
        job_id=manifest.job_id,
        teacher=manifest.teacher,
        training_file=manifest.training_file,
        counts=manifest.counts,
        words=manifest.words,
    )


def serialize_set(
    view: RationaleSetView, revision: str, judges: list[RationaleScoreManifest]
) -> RationaleSetObject:
    corrections = view.edits.corrections.values()
    return RationaleSetObject(
        **serialize_set_summary(view.manifest).model_dump(),
        items=len(view.index),
        shards=len(view.manifest.shards),
        edits=EditSummary(
            revision=revision,
            edits=len(view.edits.by_key),
            items=len(corrections),
            excluded=sum(one.excluded for one in corrections),
            reworded=sum(one.text is not None for one in corrections),
        ),
        judges=[serialize_judge_scoring(one) for one in judges],
    )


def serialize_judge_scoring(scored: RationaleScoreManifest) -> JudgeScoring:
    return JudgeScoring(
        job_id=scored.job_id,
        version=scored.version,
        revision=scored.revision,
        created_at=int(scored.created_at),
    )


def serialize_edit(stored_edit: RationaleEdit) -> ItemEditObject:
    return ItemEditObject(**stored_edit.model_dump(exclude={"item_id"}))
