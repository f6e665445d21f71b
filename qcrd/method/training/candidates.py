"""Candidates of a batch laid out as [N, R], weighed by a scheme, reduced to those that count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcrd.method.losses import WeightFn
from qcrd.records.rationales import Rationale


@dataclass(frozen=True)
class SelectedCandidates:
    """The candidates with weight: (row, rationale), weights [M], judge scores [M]; on the CPU."""

    selected: list[tuple[int, Rationale]]
    weights: Tensor
    scores: Tensor


class Candidates:
    """`candidates[i]` belong to row i; a rationale without a score has the score
    `default_score`."""

    def __init__(
        self,
        candidates: Sequence[Sequence[Rationale]],
        scores: Mapping[str, float],
        *,
        default_score: float,
    ) -> None:
        self.flat_candidates = [
            (row, r) for row, rationales in enumerate(candidates) for r in rationales
        ]
        self._counts = [len(own) for own in candidates]
        width = max(self._counts, default=0)
        self.mask = torch.zeros(len(candidates), width, dtype=torch.bool)
        for row, own in enumerate(candidates):
            self.mask[row, : len(own)] = True
        self.scores = torch.tensor(
            [scores.get(r.id, default_score) for _, r in self.flat_candidates]
        )

    def has_choice(self, row: int) -> bool:
        """Whether a question has several candidates: the schemes need no loss of a single one."""
        return self._counts[row] > 1

    def select(
        self,
        ce: Tensor,
        weight_fn: WeightFn,
        luck: int,
        *,
        quality: Callable[[Tensor], Tensor],
        margins: Tensor | None = None,
    ) -> SelectedCandidates:
        """Weigh every candidate by its cross entropy `ce` [candidates], which needs no gradient;
        keep those that will have one. `luck`: the seed of what a scheme leaves to it.

        `margins` [N]: a candidate whose cross entropy is at or above its row's is left out, because
        its gradient is 0.
        """
        if not self.flat_candidates:
            return SelectedCandidates([], torch.zeros(0), torch.zeros(0))
        lots = torch.tensor([draw_lot(luck, r) for _, r in self.flat_candidates])
        flat = (ce, quality(self.scores), lots)
        grid_ce, grid_quality, grid_lots = map(self._to_grid, flat)
        weights = weight_fn(grid_ce, self.mask, grid_quality, grid_lots)[self.mask].float()
        if margins is not None:
            weights = weights * (ce < margins[[row for row, _ in self.flat_candidates]])
        kept_indices = weights.nonzero().flatten().tolist()
        return SelectedCandidates(
            [self.flat_candidates[i] for i in kept_indices],
            weights[kept_indices],
            self.scores[kept_indices],
        )

    def _to_grid(self, flat: Tensor) -> Tensor:
        """[candidates] -> [N, R], zero where there is none."""
        grid = torch.zeros(self.mask.shape, dtype=flat.dtype)
        grid[self.mask] = flat
        return grid


def draw_lot(luck: int, rationale: Rationale) -> float:
    """A number in [0, 1) of the seed and the rationale alone: what is drawn does not depend on how
    a batch is shared out."""
    digest = hashlib.blake2b(f"{luck}/{rationale.id}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") / 2**32
