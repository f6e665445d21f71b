"""Several static batches side by side, for encoder-decoders and decoders without a slot cache.

Requests that come together begin together as one batch, whatever else runs; one step is a step of
each batch. Sequences leave between two steps, and a batch ends with its last one. That is exact for
every model that transformers can generate with, at the price of one call per batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from services.teacher.engines.base import Token
from services.teacher.engines.transformers.batch import StaticBatch
from services.teacher.engines.transformers.sequence import SequenceState
from services.teacher.engines.transformers.weights import LoadedModel

# Every batch reads all the weights at each step, so arrivals wait rather than start a fifth.
MAX_BATCHES = 4


class StaticBatches:
    """`add`, `step` and `remove` as in `ContinuousBatch`; `add` needs `has_capacity`."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._batches: list[StaticBatch] = []
        self._pending: list[SequenceState] = []
        self.prefilled_tokens = 0

    @property
    def has_capacity(self) -> bool:
        return len(self._batches) < MAX_BATCHES

    def add(self, sequences: Sequence[SequenceState]) -> None:
        """Queue sequences; the next step reads their prompts."""
        self._pending += sequences
        self.prefilled_tokens += sum(len(sequence.prompt) for sequence in sequences)

    @torch.inference_mode()
    def step(self) -> list[Token]:
        """One token for every sequence, in the order they were added."""
        if self._pending:
            self._batches.append(StaticBatch(self._model, self._pending))
            self._pending = []
        return [token for batch in self._batches for token in batch.step()]

    def remove(self, removed: Sequence[int]) -> list[int]:
        """Take the sequences at the indices `removed` out; the remaining ones' former indices."""
        order, offset = [], 0
        for batch in self._batches:
            count = len(batch.sequences)
            removed_here = [index - offset for index in removed if offset <= index < offset + count]
            order += [offset + place for place in batch.remove(removed_here)]
            offset += count
        self._batches = [batch for batch in self._batches if batch.sequences]
        return order

    def reset(self) -> None:
        """Drop all sequences, after a call of the model that failed midway."""
        self._batches, self._pending = [], []
