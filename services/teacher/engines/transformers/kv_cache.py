"""Keys and values of many sequences in one buffer that is allocated once.

Every row begins at column 0, whatever the others do: a new sequence is written where an old one
was, and a prompt that begins like one that is still there copies its columns. transformers' own
dynamic cache would copy all of it at every token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """One attention layer's share of a `SlotCache`."""

    is_sliding = False

    def __init__(self, slots: int, max_length: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers has no types
        self._shape = (slots, max_length)
        self.view: CacheView | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        slots, columns = self._shape
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (slots, states.shape[1], columns, states.shape[3])
            setattr(self, name, _zeros(shape, states))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write [n, heads, T, size] where the view says; all columns the view can see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.view is not None
        assert self.keys is not None
        assert self.values is not None
        return (
            self.view.write(self.keys, key_states),
            self.view.write(self.values, value_states),
        )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length(), 0

    def get_seq_length(self) -> int:
        return 0 if self.view is None else self.view.width

    def get_max_length(self) -> int:
        return self._shape[1]


def _zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Zeros, as what is masked is still multiplied by 0. On a CPU pages cost nothing until they
    are written, which torch's own zeros are at once.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    buffer = np.zeros(math.prod(shape) * like.element_size(), dtype=np.uint8)
    return torch.from_numpy(buffer).view(like.dtype).view(shape)


class CacheView:
    """Where one call of the model writes: the next column of the first rows, or one row's next
    columns.
    """

    def __init__(self, lengths: Sequence[int], *, row: int | None = None, count: int = 1) -> None:
        """`lengths`: columns filled so far, per row. With `row`, `count` columns of that one."""
        self._row, self._count = row, count
        self._start = lengths[0]
        self._rows = torch.arange(len(lengths))
        self._columns = torch.tensor(lengths)
        self.width = max(lengths) + count

    def write(self, buffer: Tensor, states: Tensor) -> Tensor:
        if self._row is None:
            buffer[self._rows, :, self._columns] = states[:, :, 0]
            return buffer[: len(self._rows), :, : self.width]
        buffer[self._row, :, self._start : self.width] = states[0]
        return buffer[self._row : self._row + 1, :, : self.width]


class SlotCache(Cache):
    """`slots` rows of `columns` tokens for every layer. Point it with `set_view` before each
    call."""

    def __init__(self, layers: int, slots: int, max_length: int) -> None:
        self._slot_layers = [SlotLayer(slots, max_length) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def set_view(self, view: CacheView) -> None:
        for layer in self._slot_layers:
            layer.view = view

    def copy(self, source: int, target: int, columns: int) -> None:
        """The first `columns` columns of row `source` into row `target`."""
        for buffer in self._buffers():
            buffer[target, :, :columns] = buffer[source, :, :columns]

    def swap(self, one: int, other: int, columns: int) -> None:
        """Exchange the first `columns` columns of two rows."""
        for buffer in self._buffers():
            saved = buffer[one, :, :columns].clone()
            buffer[one, :, :columns] = buffer[other, :, :columns]
            buffer[other, :, :columns] = saved

    def _buffers(self) -> list[Tensor]:
        both = [buffer for layer in self._slot_layers for buffer in (layer.keys, layer.values)]
        return [buffer for buffer in both if buffer is not None]
