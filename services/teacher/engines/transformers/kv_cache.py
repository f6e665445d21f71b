"""Keys and values of many sequences in one buffer that is allocated once.

Every slot begins at column 0: a new sequence overwrites a finished one, and a prompt that shares a
prefix with a cached one copies its columns. transformers' own
dynamic cache would copy all of it at every token.
"""

from __future__ import annotations

import contextlib
import math
import mmap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

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
        """Write [n, heads, T, size] at the view's columns; returns all columns of the view."""
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
    """Zeros, as masked values are still multiplied by 0. A CPU's pages are taken when they are
    first written, and small ones: of large ones, which torch and numpy ask for, a slot would
    take all that it may ever need with its first token.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    size = math.prod(shape) * like.element_size()
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            pages.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


class CacheView(ABC):
    """Where one call of the model writes, and what it sees: the first `width` columns of some
    slots."""

    width: int

    @abstractmethod
    def write(self, buffer: Tensor, states: Tensor) -> Tensor:
        """Put `states` [n, heads, T, size] into `buffer`; what of it is seen."""


class NextColumn(CacheView):
    """The next column of each of the first slots."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """`lengths`: columns filled so far, per slot."""
        self._slots = torch.arange(len(lengths))
        self._columns = torch.tensor(lengths)
        self.width = max(lengths) + 1

    def write(self, buffer: Tensor, states: Tensor) -> Tensor:
        buffer[self._slots, :, self._columns] = states[:, :, 0]
        return buffer[: len(self._slots), :, : self.width]


class NextColumns(CacheView):
    """The next `counts` columns of `slots`, which have `starts` already. States behind a slot's
    count are padding, which is not written."""

    def __init__(self, slots: Sequence[int], starts: Sequence[int], counts: Sequence[int]) -> None:
        self._slots = list(slots)
        self._parts = [
            (slot, slice(start, start + count))
            for slot, start, count in zip(slots, starts, counts, strict=True)
        ]
        self.width = max(part.stop for _, part in self._parts)

    def write(self, buffer: Tensor, states: Tensor) -> Tensor:
        for row, (slot, part) in enumerate(self._parts):
            buffer[slot, :, part] = states[row, :, : part.stop - part.start]
        if len(self._slots) == 1:
            return buffer[self._slots[0] : self._slots[0] + 1, :, : self.width]
        return buffer[self._slots, :, : self.width]


class SlotCache(Cache):
    """`slots` sequences of `max_length` tokens for every layer. Each call of the model writes where
    `set_view` last said."""

    def __init__(self, layers: int, slots: int, max_length: int) -> None:
        self._slot_layers = [SlotLayer(slots, max_length) for _ in range(layers)]
        super().__init__(layers=list(self._slot_layers))

    def set_view(self, view: CacheView) -> None:
        for layer in self._slot_layers:
            layer.view = view

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Copy the columns from `start` to `end` of slot `source` into slot `target`."""
        for buffer in self._buffers():
            buffer[target, :, start:end] = buffer[source, :, start:end]

    def swap(self, one: int, other: int, start: int, end: int) -> None:
        """Exchange the columns from `start` to `end` of two slots."""
        for buffer in self._buffers():
            saved = buffer[one, :, start:end].clone()
            buffer[one, :, start:end] = buffer[other, :, start:end]
            buffer[other, :, start:end] = saved

    def _buffers(self) -> list[Tensor]:
        both = [buffer for layer in self._slot_layers for buffer in (layer.keys, layer.values)]
        return [buffer for buffer in both if buffer is not None]
