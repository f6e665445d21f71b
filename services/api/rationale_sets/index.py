"""Where each item of a rationale set lies, and what a filter asks of it, without its text.

A row is an item; rows are numbered in the set's order, in which a question's positives come before
its negatives. Kept beside the set as one object: 8 bytes per row and 28 per question.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcrd.errors import NotFound
from qcrd.records.rationale_annotations import Polarity
from qcrd.records.rationales import RationaleItem, RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.store import Store, read_lines, read_object

QUESTION = np.dtype(
    [
        ("key", "<u8"),
        ("first", "<u4"),
        ("shard", "<u4"),
        ("line", "<u4"),
        ("margin", "<f4"),
        ("positives", "<u2"),
        ("negatives", "<u2"),
    ]
)
"""`first` is the question's first row; questions without any rationale are left out."""

Rows = NDArray[np.int64]
Columns = tuple[NDArray[np.void], NDArray[np.uint64]]


def short(name: str) -> int:
    """64 bits of an id: of 10^6 ids two collide with a probability below 10^-7."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


class Index:
    def __init__(self, questions: NDArray[np.void], rationales: NDArray[np.uint64]) -> None:
        """`rationales`: `short` of each row's rationale id."""
        self.questions = questions
        self.rationales = rationales
        self._order = np.argsort(questions["key"], kind="stable").astype(np.uint32)

    def __len__(self) -> int:
        return len(self.rationales)

    @property
    def nbytes(self) -> int:
        return int(self.questions.nbytes + self.rationales.nbytes + self._order.nbytes)

    def counts(self) -> NDArray[np.int64]:
        """Rows of each question."""
        added: NDArray[np.int64] = (
            self.questions["positives"].astype(np.int64) + self.questions["negatives"]
        )
        return added

    def positive(self) -> NDArray[np.bool_]:
        """By row."""
        after = self.questions["first"].astype(np.int64) + self.questions["positives"]
        return np.arange(len(self)) < np.repeat(after, self.counts())

    def margins(self) -> NDArray[np.float32]:
        """By row: the lead of its question's vote in [0, 1]."""
        return np.repeat(self.questions["margin"], self.counts())

    def question_of(self, rows: Rows) -> NDArray[np.int64]:
        """Number of each row's question in `questions`."""
        return np.searchsorted(self.questions["first"], rows, side="right") - 1

    def row(self, item_id: str, param: str = "item_id") -> int:
        """`Invalid` when it cannot be an item's id, `NotFound` when the set has no such item."""
        question_id, polarity, place = rationale_edits.parse_item_id(item_id, param)
        found = self._question(question_id)
        if found is not None:
            before = 0 if polarity is Polarity.POSITIVE else int(found["positives"])
            there = found["positives" if polarity is Polarity.POSITIVE else "negatives"]
            if place < there:
                return int(found["first"]) + before + place
        raise NotFound(
            f"`{param}`: the set has no item {item_id}", param=param, code="item_not_found"
        )

    def _question(self, question_id: str) -> Any | None:
        key = np.uint64(short(question_id))
        place = int(np.searchsorted(self.questions["key"], key, sorter=self._order))
        if place == len(self._order):
            return None
        found = self.questions[self._order[place]]
        return found if found["key"] == key else None


def build(shards: Iterable[Iterable[RationaleItem]]) -> Index:
    """From each shard's items in their order; one shard's rows are in memory as objects."""
    parts: list[Columns] = []
    first = 0
    for number, items in enumerate(shards):
        parts.append(_columns(items, number, first))
        first += len(parts[-1][1])
    if not parts:
        return Index(np.zeros(0, QUESTION), np.zeros(0, np.uint64))
    return Index(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))


def _columns(items: Iterable[RationaleItem], shard: int, first: int) -> Columns:
    questions: list[tuple[object, ...]] = []
    rationales: list[int] = []
    for line, item in enumerate(items):
        said = (*item.positives, *item.negatives)
        if said:
            counts = (len(item.positives), len(item.negatives))
            place = (first + len(rationales), shard, line)
            questions.append((short(item.question.id), *place, item.vote.margin, *counts))
            rationales += [short(rationale.id) for rationale in said]
    return np.array(questions, QUESTION), np.array(rationales, np.uint64)


def write(store: Store, set_id: str, index: Index) -> None:
    packed = io.BytesIO()
    np.savez(packed, questions=index.questions, rationales=index.rationales)
    store.put(keys.rationale_index_key(set_id), packed.getvalue())


def of_set(store: Store, manifest: RationaleManifest) -> Index:
    """As it lies beside the set; for a set from before there were any it is made, once."""
    try:
        packed = read_object(store, keys.rationale_index_key(manifest.id))
    except NotFound:
        index = build(_read(store, manifest.shards))
        write(store, manifest.id, index)
        return index
    with np.load(io.BytesIO(packed), allow_pickle=False) as columns:
        return Index(columns["questions"], columns["rationales"])


def _read(store: Store, shards: Sequence[str]) -> Iterator[Iterator[RationaleItem]]:
    return (read_lines(store, key, RationaleItem) for key in shards)
