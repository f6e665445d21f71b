"""A rationale set as it stands: its index, people's edits of it and one judge's scores."""

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
from services.api.rationale_sets.index import Index, Rows, short
from services.api.rationale_sets.scores import SetScores

Share = Annotated[float | None, Field(ge=0, le=1)]


class Filter(BaseModel):
    """Bounds are inclusive; a bound on the score leaves out what no judge has scored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polarity: Polarity | None = None
    min_margin: Share = None
    max_margin: Share = None
    min_score: Share = None
    max_score: Share = None
    excluded: bool | None = None
    judge: str | None = None
    """Job whose judge's scores are meant; None: of the job that assembled the set, or the newest.
    """

    def check(self) -> None:
        for name in ("margin", "score"):
            low, high = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if low is not None and high is not None and low > high:
                raise Invalid(
                    f"`min_{name}` {low} is above `max_{name}` {high}: swap them",
                    param=f"min_{name}",
                )


@dataclass(frozen=True)
class Edits:
    """All edits of a set by their keys, and folded by item id."""

    by_key: Mapping[str, RationaleEdit]
    corrections: Mapping[str, Correction] = field(default_factory=dict)

    @classmethod
    def of(cls, by_key: Mapping[str, RationaleEdit]) -> Edits:
        return cls(by_key, rationale_edits.fold_edits(by_key.values()))

    @property
    def nbytes(self) -> int:
        """About: 1.5 kB of objects per edit, and at most four bytes per letter of its texts."""
        texts = sum(len(one.text or "") + len(one.reason or "") for one in self.by_key.values())
        return 1500 * len(self.by_key) + 4 * texts


@dataclass(frozen=True)
class View:
    manifest: RationaleManifest
    index: Index
    edits: Edits
    judge: SetScores | None

    @cached_property
    def scores(self) -> NDArray[np.float64]:
        """By row; NaN where this judge did not score the text that the item has now."""
        if self.judge is None:
            return np.full(len(self.index), np.nan)
        scores = self.judge.of(self.index.rationales)
        reworded = {
            name: c.text for name, c in self.edits.corrections.items() if c.text is not None
        }
        if reworded:
            ids = [short(keys.digest(name.split("-")[0], text)) for name, text in reworded.items()]
            scores[self._rows(reworded)] = self.judge.of(np.array(ids, np.uint64))
        return scores

    def matching(self, wanted: Filter) -> Rows:
        """The rows that `wanted` lets through, ascending."""
        kept = np.ones(len(self.index), bool)
        if wanted.polarity is not None:
            kept &= self.index.positive() == (wanted.polarity is Polarity.POSITIVE)
        # Margins are kept in single precision: a bound has to be rounded alike to be met exactly.
        low, high = (_single(bound) for bound in (wanted.min_margin, wanted.max_margin))
        _bound(kept, self.index.margins, low, high)
        _bound(kept, lambda: self.scores, wanted.min_score, wanted.max_score)
        if wanted.excluded is not None:
            excluded = np.zeros(len(self.index), bool)
            corrections = self.edits.corrections.items()
            excluded[self._rows(name for name, one in corrections if one.excluded)] = True
            kept &= excluded == wanted.excluded
        return np.flatnonzero(kept)

    def _rows(self, names: Iterable[str]) -> Rows:
        return np.array([self.index.row(name) for name in names], np.int64)


def _single(bound: float | None) -> float | None:
    return None if bound is None else float(np.float32(bound))


def _bound(
    kept: NDArray[np.bool_],
    column: Callable[[], NDArray[np.floating]],
    low: float | None,
    high: float | None,
) -> None:
    """NaN is within no bounds."""
    if low is not None:
        kept &= column() >= low
    if high is not None:
        kept &= column() <= high
