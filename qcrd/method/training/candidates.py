"""Candidates of a batch laid out as [N, R], weighed by a scheme, reduced to those that count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcrd.method.losses import WeightFn
from qcrd.records.rationales import Rationale


@dataclass(frozen=True)
class Picks:
    """The candidates with weight: (row, rationale), weights [M], judge scores [M]; on the CPU."""

    chosen: list[tuple[int, Rationale]]
    weights: Tensor
    scores: Tensor


class Slate:
    """`candidates[i]` belong to row i; a rationale without a score has the score `missing`."""

    def __init__(
        self,
        candidates: Sequence[Sequence[Rationale]],
        scores: Mapping[str, float],
        *,
        missing: float,
    ) -> None:
        self.flat = [(row, r) for row, own in enumerate(candidates) for r in own]
        width = max((len(own) for own in candidates), default=0)
        self.mask = torch.zeros(len(candidates), width, dtype=torch.bool)
        for row, own in enumerate(candidates):
            self.mask[row, : len(own)] = True
        self.scores = torch.tensor([scores.get(r.id, missing) for _, r in self.flat])

    @property
    def forced(self) -> bool:
        """Whether no question has a choice, so that no scheme needs to know a cross entropy."""
        return bool((self.mask.sum(1) <= 1).all())

    def weigh(
        self,
        ce: Tensor,
        scheme: WeightFn,
        generator: torch.Generator,
        *,
        quality: Callable[[Tensor], Tensor],
        below: float | None = None,
    ) -> Picks:
        """Weigh every candidate by its cross entropy `ce` [candidates], which needs no gradient;
        keep those that will have one.

        `below`: a candidate whose cross entropy is at or above it is left out (past the margin
        its gradient is 0).
        """
        if not self.flat:
            return Picks([], torch.zeros(0), torch.zeros(0))
        weights = scheme(self._grid(ce), self.mask, self._grid(quality(self.scores)), generator)[
            self.mask
        ].float()
        if below is not None:
            weights = weights * (ce < below)
        kept = weights.nonzero().flatten().tolist()
        return Picks(
            [self.flat[i] for i in kept],
            weights[kept],
            self.scores[kept],
        )

    def _grid(self, flat: Tensor) -> Tensor:
        """[candidates] -> [N, R], zero where there is none."""
        grid = torch.zeros(self.mask.shape, dtype=flat.dtype)
        grid[self.mask] = flat
        return grid
