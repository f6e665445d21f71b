"""Encoder-decoders, and decoders whose cache is no slot cache, in several batches side by side.

Requests that come together begin together as one batch, whatever else runs; one step is a step of
each batch. Rows leave between two steps, and a batch is gone with its last row. That is exact for
every model that transformers can generate with, at the price of one call per batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.teacher.engines.base import Token
from services.teacher.engines.transformers.batch import Batch
from services.teacher.engines.transformers.sequence import Row
from services.teacher.engines.transformers.weights import Model

# A batch of its own for every arrival would read the weights once for each.
MOST = 4


class Cohorts:
    """`add`, `step` and `leave` as in `Continuous`; nobody may join while not `open`."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._batches: list[Batch] = []
        self._joining: list[Row] = []
        self.prefilled_tokens = 0

    @property
    def open(self) -> bool:
        return len(self._batches) < MOST

    def add(self, row: Row) -> None:
        """Its prompt is read by the next step."""
        self._joining.append(row)
        self.prefilled_tokens += len(row.prompt)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One token for every row, in the order they were added."""
        if self._joining:
            self._batches.append(Batch(self._model, self._joining))
            self._joining = []
        return [token for batch in self._batches for token in batch.step()]

    def leave(self, places: Sequence[int]) -> list[int]:
        """Take the rows at `places` out. The places that the remaining rows had."""
        order, before = [], 0
        for batch in self._batches:
            count = len(batch.rows)
            mine = [place - before for place in places if before <= place < before + count]
            order += [before + place for place in batch.leave(mine)]
            before += count
        self._batches = [batch for batch in self._batches if batch.rows]
        return order

    def reset(self) -> None:
        """Forget everything, after a call of the model that broke in the middle."""
        self._batches, self._joining = [], []
