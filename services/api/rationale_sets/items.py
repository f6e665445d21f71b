"""Reads the items of some rows, from their shards only."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcrd.records.rationale_annotations import Polarity
from qcrd.records.rationales import Rationale, RationaleItem
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import read_lines_at
from qcrd.runtime.storage.store import Store
from services.api.rationale_sets.filtering import RationaleSetView
from services.api.rationale_sets.index import RowIndices
from services.api.rationale_sets.schemas import ItemObject, ItemVote, OriginalText

SHARDS_PER_PAGE = 4
"""Shards that a page may read: where its rows are far apart, a page is shorter, not slower."""


def clip_to_shards(view: RationaleSetView, rows: RowIndices) -> RowIndices:
    """The first of `rows`, as many as `SHARDS_PER_PAGE` shards contain."""
    shards = view.index.questions["shard"][view.index.find_questions(rows)]
    shard_starts = np.flatnonzero(np.diff(shards)) + 1
    return (
        rows if len(shard_starts) < SHARDS_PER_PAGE else rows[: shard_starts[SHARDS_PER_PAGE - 1]]
    )


def read_items(store: Store, view: RationaleSetView, rows: RowIndices) -> Iterator[ItemObject]:
    """Yield the items of ascending `rows`; one question's text is in memory at a time."""
    shards = view.index.questions["shard"][view.index.find_questions(rows)]
    for part in np.split(rows, np.flatnonzero(np.diff(shards)) + 1):
        if len(part):
            yield from _read_shard_items(store, view, part)


def _read_shard_items(
    store: Store, view: RationaleSetView, rows: RowIndices
) -> Iterator[ItemObject]:
    questions = view.index.questions[view.index.find_questions(rows)]
    lines, starts = np.unique(questions["line"], return_index=True)
    key = view.manifest.shards[int(questions["shard"][0])]
    parts = iter(np.split(np.arange(len(rows)), starts[1:]))
    for _, item in read_lines_at(store, key, RationaleItem, lines.tolist()):
        item_rationales = list(rationale_edits.iter_rationales(item))
        for position in next(parts):
            row = int(rows[position])
            yield _make_item(
                view, item, item_rationales[row - int(questions["first"][position])], row
            )


def _make_item(
    view: RationaleSetView, item: RationaleItem, entry: tuple[str, Polarity, Rationale], row: int
) -> ItemObject:
    item_id, polarity, original = entry
    correction = view.edits.corrections.get(item_id)
    current = rationale_edits.apply_correction(original, correction)
    score = float(view.scores[row])
    is_reworded = (current.text, current.answer) != (original.text, original.answer)
    return ItemObject(
        id=item_id,
        rationale_set=view.manifest.id,
        rationale_id=current.id,
        question_id=item.question.id,
        question=item.question.text,
        choices=list(item.question.choices),
        label=item.label,
        gold=item.gold,
        polarity=polarity,
        source=current.source,
        text=current.text,
        answer=current.answer,
        vote=ItemVote(**item.vote.model_dump()),
        margin=item.vote.margin,
        tie=item.vote.tie,
        score=None if np.isnan(score) else score,
        excluded=correction is not None and correction.excluded,
        edits=0 if correction is None else correction.edits,
        original=OriginalText(text=original.text, answer=original.answer) if is_reworded else None,
    )
