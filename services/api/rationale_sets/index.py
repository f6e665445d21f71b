"""An index of a rationale set: each item's position and filter values, without its text.

A row is an item; rows are numbered in the set's order, in which a question's positives come before
its negatives. Kept beside the set as one object: 8 bytes per row and 28 per question.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from qcrd.errors import NotFound
from qcrd.records.rationale_annotations import Polarity
from qcrd.records.rationales import RationaleItem, RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from qcrd.runtime.storage.json_lines import SPOOL_BYTES, read_lines
from qcrd.runtime.storage.store import Store, read_object

QUESTION_DTYPE = np.dtype(
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

RowIndices = NDArray[np.int64]
IndexColumns = tuple[NDArray[np.void], NDArray[np.uint64]]


def hash_id(name: str) -> int:
    """64 bits of an id: of 10^6 ids two collide with a probability below 10^-7."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


class RationaleSetIndex:
    def __init__(self, questions: NDArray[np.void], rationales: NDArray[np.uint64]) -> None:
        """`rationales`: `hash_id` of each row's rationale id."""
        self.questions = questions
        self.rationales = rationales
        self._order = np.argsort(questions["key"], kind="stable").astype(np.uint32)

    def __len__(self) -> int:
        return len(self.rationales)

    @property
    def nbytes(self) -> int:
        return int(self.questions.nbytes + self.rationales.nbytes + self._order.nbytes)

    def rows_per_question(self) -> NDArray[np.int64]:
        """Rows of each question."""
        counts: NDArray[np.int64] = (
            self.questions["positives"].astype(np.int64) + self.questions["negatives"]
        )
        return counts

    def positive_mask(self) -> NDArray[np.bool_]:
        """Whether each row is a positive."""
        negatives_start = self.questions["first"].astype(np.int64) + self.questions["positives"]
        return np.arange(len(self)) < np.repeat(negatives_start, self.rows_per_question())

    def row_margins(self) -> NDArray[np.float32]:
        """The vote margin of each row's question, in [0, 1]."""
        return np.repeat(self.questions["margin"], self.rows_per_question())

    def find_questions(self, rows: RowIndices) -> NDArray[np.int64]:
        """Number of each row's question in `questions`."""
        return np.searchsorted(self.questions["first"], rows, side="right") - 1

    def find_row(self, item_id: str, param: str = "item_id") -> int:
        """The item's row. `Invalid` for a malformed id, `NotFound` for an item not in the set."""
        question_id, polarity, position = rationale_edits.parse_item_id(item_id, param)
        question = self._find_question(question_id)
        if question is not None:
            offset = 0 if polarity is Polarity.POSITIVE else int(question["positives"])
            count = question["positives" if polarity is Polarity.POSITIVE else "negatives"]
            if position < count:
                return int(question["first"]) + offset + position
        raise NotFound(
            f"`{param}`: the set has no item {item_id}", param=param, code="item_not_found"
        )

    def _find_question(self, question_id: str) -> Any | None:
        key = np.uint64(hash_id(question_id))
        position = int(np.searchsorted(self.questions["key"], key, sorter=self._order))
        if position == len(self._order):
            return None
        question = self.questions[self._order[position]]
        return question if question["key"] == key else None


def build_index(shards: Iterable[Iterable[RationaleItem]]) -> RationaleSetIndex:
    """Build it from the items in order; one shard's items are in memory as objects."""
    parts: list[IndexColumns] = []
    first = 0
    for number, items in enumerate(shards):
        parts.append(_build_columns(items, number, first))
        first += len(parts[-1][1])
    if not parts:
        return RationaleSetIndex(np.zeros(0, QUESTION_DTYPE), np.zeros(0, np.uint64))
    return RationaleSetIndex(
        np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])
    )


def _build_columns(items: Iterable[RationaleItem], shard: int, first: int) -> IndexColumns:
    questions: list[tuple[object, ...]] = []
    rationales: list[int] = []
    for line, item in enumerate(items):
        item_rationales = (*item.positives, *item.negatives)
        if item_rationales:
            counts = (len(item.positives), len(item.negatives))
            location = (first + len(rationales), shard, line)
            questions.append((hash_id(item.question.id), *location, item.vote.margin, *counts))
            rationales += [hash_id(rationale.id) for rationale in item_rationales]
    return np.array(questions, QUESTION_DTYPE), np.array(rationales, np.uint64)


class IndexWriter:
    """Writes an index shard by shard, without holding it."""

    def __init__(self) -> None:
        self._columns = {
            name: tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115 (closed by `write`)
            for name in ("questions", "rationales")
        }
        self._shards = self._questions = self._rows = 0

    def add_shard(self, items: Iterable[RationaleItem]) -> None:
        questions, rationales = _build_columns(items, self._shards, self._rows)
        self._columns["questions"].write(questions.tobytes())
        self._columns["rationales"].write(rationales.tobytes())
        self._shards += 1
        self._questions += len(questions)
        self._rows += len(rationales)

    def write(self, store: Store, set_id: str) -> None:
        """As NumPy saves these arrays."""
        shapes = {
            "questions": (QUESTION_DTYPE, self._questions),
            "rationales": (np.dtype("<u8"), self._rows),
        }
        with tempfile.SpooledTemporaryFile(SPOOL_BYTES) as archive:
            with zipfile.ZipFile(cast(IO[bytes], archive), "w") as members:
                for name, (dtype, count) in shapes.items():
                    with (
                        self._columns[name] as column,
                        members.open(f"{name}.npy", "w", force_zip64=True) as member,
                    ):
                        _write_array_header(member, dtype, count)
                        column.seek(0)
                        shutil.copyfileobj(column, member)
            length = archive.tell()
            archive.seek(0)
            store.put(keys.rationale_index_key(set_id), cast(BinaryIO, archive), length=length)


def _write_array_header(file: IO[bytes], dtype: np.dtype[Any], count: int) -> None:
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (count,),
    }
    np.lib.format.write_array_header_1_0(file, header)


def write_index(store: Store, set_id: str, index: RationaleSetIndex) -> None:
    archive = io.BytesIO()
    np.savez(archive, questions=index.questions, rationales=index.rationales)
    store.put(keys.rationale_index_key(set_id), archive.getvalue())


def load_index(store: Store, manifest: RationaleManifest) -> RationaleSetIndex:
    """The stored index; an old set without one gets one."""
    try:
        archive = read_object(store, keys.rationale_index_key(manifest.id))
    except NotFound:
        index = build_index(_read_shards(store, manifest.shards))
        write_index(store, manifest.id, index)
        return index
    with np.load(io.BytesIO(archive), allow_pickle=False) as columns:
        return RationaleSetIndex(columns["questions"], columns["rationales"])


def _read_shards(store: Store, shards: Sequence[str]) -> Iterator[Iterator[RationaleItem]]:
    return (read_lines(store, key, RationaleItem) for key in shards)
