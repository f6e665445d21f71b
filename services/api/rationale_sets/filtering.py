"""A view of a rationale set: its index, the users' edits and one judge's scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from qcrd.errors import Invalid
from qcrd.records.rationale_annotations import Correction, Polarity, RationaleEdit
from qcrd.records.rationales import RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.storage import rationale_edits
from services.api.rationale_sets.index import RationaleSetIndex, RowIndices, hash_id
from services.api.rationale_sets.scores import SetScores

UnitInterval = Annotated[float | None, Field(ge=0, le=1)]


class ItemFilter(BaseModel):
    """Bounds are inclusive; a bound on the score leaves out what no judge has scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polarity: Polarity | None = None
    min_margin: UnitInterval = None
    max_margin: UnitInterval = None
    min_score: UnitInterval = None
    max_score: UnitInterval = None
    excluded: bool | None = None
    judge: str | None = None
    """Job whose judge's scores are meant; None: of the job that assembled the set, or the newest.
    """

    def check_bounds(self) -> None:
        for name in ("margin", "score"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise Invalid(
                    f"`min_{name}` {low} is above `max_{name}` {high}: swap them",
                    param=f"min_{name}",
                )


@dataclass(frozen=True)
class EditLog:
    """The edits of a set by key, and the corrections they add up to by item id."""

    by_key: Mapping[str, RationaleEdit]
    corrections: Mapping[str, Correction] = field(default_factory=dict)

    @classmethod
    def from_edits(cls, by_key: Mapping[str, RationaleEdit]) -> EditLog:
        return cls(by_key, rationale_edits.fold_edits(by_key.values()))

    @property
    def nbytes(self) -> int:
        """Estimated bytes: 1.5 kB of objects per edit, at most four per character of its texts."""
        texts = sum(len(edit.text or "") + len(edit.reason or "") for edit in self.by_key.values())
        return 1500 * len(self.by_key) + 4 * texts


@dataclass(frozen=True)
class RationaleSetView:
    manifest: RationaleManifest
    index: RationaleSetIndex
    edits: EditLog
    judge_scores: SetScores | None

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """Scores by row; NaN where this judge did not score the item's current text."""
        if self.judge_scores is None:
            return np.full(len(self.index), np.nan)
        scores = self.judge_scores.lookup(self.index.rationales)
        reworded = {
            name: c.text for name, c in self.edits.corrections.items() if c.text is not None
        }
        if reworded:
            ids = [
                hash_id(keys.digest(name.split("-")[0], text)) for name, text in reworded.items()
            ]
            scores[self._find_rows(reworded)] = self.judge_scores.lookup(np.array(ids, np.uint64))
        return scores

    def filter_rows(self, item_filter: ItemFilter) -> RowIndices:
        """The rows that `item_filter` lets through, ascending."""
        mask = np.ones(len(self.index), bool)
        if item_filter.polarity is not None:
            mask &= self.index.positive_mask() == (item_filter.polarity is Polarity.POSITIVE)
        # Margins have single precision: a bound must be rounded alike to be met exactly.
        low, high = (
            _to_float32(bound) for bound in (item_filter.min_margin, item_filter.max_margin)
        )
        _apply_bounds(mask, self.index.row_margins, low, high)
        _apply_bounds(mask, lambda: self.scores, item_filter.min_score, item_filter.max_score)
        if item_filter.excluded is not None:
            excluded = np.zeros(len(self.index), bool)
            corrections = self.edits.corrections.items()
            excluded[self._find_rows(name for name, one in corrections if one.excluded)] = True
            mask &= excluded == item_filter.excluded
        return np.flatnonzero(mask)

    def _find_rows(self, item_ids: Iterable[str]) -> RowIndices:
        return np.array([self.index.find_row(name) for name in item_ids], np.int64)


def _to_float32(bound: float | None) -> float | None:
    return None if bound is None else float(np.float32(bound))


def _apply_bounds(
    mask: NDArray[np.bool_],
    column: Callable[[], NDArray[np.floating]],
    low: float | None,
    high: float | None,
) -> None:
    """Which values are within the bounds; NaN is within none."""
    if low is not None:
        mask &= column() >= low
    if high is not None:
        mask &= column() <= high
