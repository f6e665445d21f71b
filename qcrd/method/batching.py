"""Order and shape of batches: the data order of an iteration, and groups of similar length."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def iterate_batches(
    items: Sequence[T], *, batch_size: int, first_step: int, steps: int, seed: int
) -> Iterator[list[T]]:
    """The batches of `steps` steps from `first_step` on, drawn without replacement pass by pass.

    A function of (seed, step) alone: every method sees the same order, however long its iterations
    are, and a resumed run continues it without having stored it. The last batch of a pass may be
    smaller.
    """
    pass_steps, epoch, order = math.ceil(len(items) / batch_size), -1, list(range(len(items)))
    for step in range(first_step, first_step + steps):
        if step // pass_steps != epoch:
            epoch, order = step // pass_steps, list(range(len(items)))
            random.Random(f"{seed}/{epoch}").shuffle(order)
        start = step % pass_steps * batch_size
        yield [items[i] for i in order[start : start + batch_size]]


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


def split_evenly(items: Sequence[T], *, limit: int, multiple: int = 1) -> list[Sequence[T]]:
    """Runs of `items`, nearly equal in length and at most `limit` long, as many as a multiple of
    `multiple`; of few items as many as the limit makes of them."""
    n_runs = math.ceil(len(items) / limit)
    if len(items) >= MIN_GROUP_ROWS * multiple:
        n_runs = multiple * math.ceil(n_runs / multiple)
    ends = [len(items) * (i + 1) // n_runs for i in range(n_runs)]
    return [items[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def restore_order(
    parts: Sequence[tuple[Tensor, Tensor]], order: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The parts' columns, joined; row i of them is row `order[i]` of the result."""
    inverse = torch.tensor(order).argsort()
    first, second = (torch.cat(column) for column in zip(*parts, strict=True))
    return first[inverse.to(first.device)], second[inverse.to(second.device)]
