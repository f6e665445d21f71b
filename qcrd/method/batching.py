"""Order and shape of batches: the data order of an iteration, and groups of similar length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def iteration_batches(
    items: Sequence[T], *, batch_size: int, steps: int, seed: int, iteration: int
) -> Iterator[list[T]]:
    """`steps` batches for one iteration, drawn without replacement pass by pass.

    A function of (seed, iteration) alone: every method sees the same order, and a resumed run
    continues it without having stored it. The last batch of a pass may be smaller.
    """
    yielded, epoch = 0, 0
    while yielded < steps:
        order = list(range(len(items)))
        random.Random(f"{seed}/{iteration}/{epoch}").shuffle(order)
        for start in range(0, len(order), batch_size):
            if yielded == steps:
                return
            yield [items[i] for i in order[start : start + batch_size]]
            yielded += 1
        epoch += 1


MAX_LENGTH_RATIO, MIN_GROUP_ROWS = 1.25, 8


def group_by_length(
    lengths: Sequence[int], *, max_tokens: int, similar: bool = True
) -> list[list[int]]:
    """Indices in groups, each at most `max_tokens` positions with its padding.

    Where they are `similar`, a group of `MIN_GROUP_ROWS` rows ends where the next row is
    `MAX_LENGTH_RATIO` times as long as its shortest: smaller groups would cost more in calls than
    they save in padding.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        # Sorted ascending, so this row's length is the group's padded width.
        length, group = lengths[index], groups[-1] if groups else []
        fits = (len(group) + 1) * length <= max_tokens
        is_like = len(group) < MIN_GROUP_ROWS or length <= MAX_LENGTH_RATIO * lengths[group[0]]
        if group and fits and (is_like or not similar):
            group.append(index)
        else:
            groups.append([index])
    return groups


def restore_order(
    parts: Sequence[tuple[Tensor, Tensor]], order: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The parts' columns, joined; row i of them is row `order[i]` of the result."""
    inverse = torch.tensor(order).argsort()
    first, second = (torch.cat(column) for column in zip(*parts, strict=True))
    return first[inverse.to(first.device)], second[inverse.to(second.device)]
