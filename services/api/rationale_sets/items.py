"""The items of some rows, read from the shards that hold them and no others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcrd.records.rationale_annotations import Polarity
from qcrd.records.rationales import Rationale, RationaleItem
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.store import Store, read_lines_at
from services.api.rationale_sets.filtering import View
from services.api.rationale_sets.index import Rows
from services.api.rationale_sets.schemas import Item, ItemVote, Original

SHARDS_PER_PAGE = 4
"""Shards that a page may read: where what is asked for lies far apart, pages are shorter instead of
slower."""


def near(view: View, rows: Rows) -> Rows:
    """As many of `rows`, from the first, as lie in `SHARDS_PER_PAGE` shards."""
    shards = view.index.questions["shard"][view.index.question_of(rows)]
    changes = np.flatnonzero(np.diff(shards)) + 1
    return rows if len(changes) < SHARDS_PER_PAGE else rows[: changes[SHARDS_PER_PAGE - 1]]


def read(store: Store, view: View, rows: Rows) -> Iterator[Item]:
    """In their order, which is ascending; one question's text is in memory at a time."""
    shards = view.index.questions["shard"][view.index.question_of(rows)]
    for part in np.split(rows, np.flatnonzero(np.diff(shards)) + 1):
        if len(part):
            yield from _of_shard(store, view, part)


def _of_shard(store: Store, view: View, rows: Rows) -> Iterator[Item]:
    questions = view.index.questions[view.index.question_of(rows)]
    lines, starts = np.unique(questions["line"], return_index=True)
    key = view.manifest.shards[int(questions["shard"][0])]
    parts = iter(np.split(np.arange(len(rows)), starts[1:]))
    for _, item in read_lines_at(store, key, RationaleItem, lines.tolist()):
        said = list(rationale_edits.iter_rationales(item))
        for place in next(parts):
            row = int(rows[place])
            yield _item(view, item, said[row - int(questions["first"][place])], row)


def _item(view: View, item: RationaleItem, said: tuple[str, Polarity, Rationale], row: int) -> Item:
    name, polarity, original = said
    correction = view.edits.corrections.get(name)
    now = rationale_edits.apply_correction(original, correction)
    score = float(view.scores[row])
    changed = (now.text, now.answer) != (original.text, original.answer)
    return Item(
        id=name,
        rationale_set=view.manifest.id,
        rationale_id=now.id,
        question_id=item.question.id,
        question=item.question.text,
        choices=list(item.question.choices),
        label=item.label,
        gold=item.gold,
        polarity=polarity,
        source=now.source,
        text=now.text,
        answer=now.answer,
        vote=ItemVote(**item.vote.model_dump()),
        margin=item.vote.margin,
        tie=item.vote.tie,
        score=None if np.isnan(score) else score,
        excluded=correction is not None and correction.excluded,
        edits=0 if correction is None else correction.edits,
        original=Original(text=original.text, answer=original.answer) if changed else None,
    )
