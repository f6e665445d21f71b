"""Candidates of a batch laid out as [N, R], weighed by a scheme, reduced to those that count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcrd.method.losses import Weigh
from qcrd.method.students import Reading, Student
from qcrd.records import Rationale

SCORING_TOKENS = 8192
"""Padded positions per gradient-free forward pass; bounds its memory, not its result."""


@dataclass(frozen=True)
class Picks:
    """The candidates with weight: (row, rationale), weights [M] and judge scores [M]."""

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

    def weigh(
        self,
        student: Student,
        reading: Reading,
        scheme: Weigh,
        generator: torch.Generator,
        *,
        quality: Callable[[Tensor], Tensor],
        below: float | None = None,
    ) -> Picks:
        """Weigh every candidate by its value alone; keep those that will have a gradient.

        `below`: a candidate whose cross entropy is at or above it is left out (past the margin
        its gradient is 0).
        """
        if not self.flat:
            return Picks([], torch.zeros(0), torch.zeros(0))
        forced = bool((self.mask.sum(1) <= 1).all()) and below is None
        ce = torch.zeros(len(self.flat)) if forced else self._values(student, reading)
        weights = scheme(self._grid(ce), self.mask, self._grid(quality(self.scores)), generator)[
            self.mask
        ].float()
        if below is not None:
            weights = weights * (ce < below)
        kept = weights.nonzero().flatten().tolist()
        return Picks(
            [self.flat[i] for i in kept],
            weights[kept].to(student.device),
            self.scores[kept].to(student.device),
        )

    def _values(self, student: Student, reading: Reading) -> Tensor:
        owners = [row for row, _ in self.flat]
        texts = [rationale.text for _, rationale in self.flat]
        return student.score(reading, owners, texts, max_tokens=SCORING_TOKENS).cpu()

    def _grid(self, flat: Tensor) -> Tensor:
        """[candidates] -> [N, R], zero where there is none."""
        grid = torch.zeros(self.mask.shape, dtype=flat.dtype)
        grid[self.mask] = flat
        return grid
