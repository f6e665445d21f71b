"""Order and shape of batches: the data order of an iteration, and groups of similar length."""

from __future__ import annotations

import itertools
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


CALL_POSITIONS = 30
"""Positions that take a CPU as long as a call of the model, in which every weight is read: in a
training step of 135M parameters 0.2 s a call and 6.5 ms a position (decision 33, by hand)."""


def group_by_length(
    lengths: Sequence[int], *, max_tokens: int, similar: bool = True
) -> list[list[int]]:
    """Indices in groups, each at most `max_tokens` positions with its padding, or a row alone.

    Where they are `similar`, the groups are those that take the least time: another call of the
    model where that costs less than the padding that it saves.
    """
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    if similar:
        starts = _find_cheapest_starts([lengths[i] for i in order], max_tokens)
    else:
        starts = _find_full_starts([lengths[i] for i in order], max_tokens)
    return [order[start:end] for start, end in itertools.pairwise([*starts, len(order)])]


def _find_full_starts(ascending: Sequence[int], max_tokens: int) -> list[int]:
    """Where groups start that are as large as the limit lets them be."""
    starts: list[int] = []
    for place, length in enumerate(ascending):
        # Sorted ascending, so this row's length is the group's padded width.
        if not starts or (place + 1 - starts[-1]) * length > max_tokens:
            starts.append(place)
    return starts


def _find_cheapest_starts(ascending: Sequence[int], max_tokens: int) -> list[int]:
    """Where the groups start whose positions and calls cost the least together."""
    # Of the first n rows: what they cost at the least, and where their last group starts.
    best: list[tuple[int, int]] = [(0, 0)]
    for end, length in enumerate(ascending, start=1):
        first = min(end - 1, max(0, end - max_tokens // max(1, length)))
        best.append(
            min(
                (best[start][0] + (end - start) * length + CALL_POSITIONS, start)
                for start in range(first, end)
            )
        )
    starts: list[int] = []
    end = len(ascending)
    while end:
        end = best[end][1]
        starts.append(end)
    return starts[::-1]


MIN_RUN_ITEMS = 8
"""What is not parted further for the sake of ranks."""


def split_evenly(items: Sequence[T], *, limit: int, multiple: int = 1) -> list[Sequence[T]]:
    """Runs of `items`, nearly equal in length and at most `limit` long, as many as a multiple of
    `multiple`; of few items as many as the limit makes of them."""
    n_runs = math.ceil(len(items) / limit)
    if len(items) >= MIN_RUN_ITEMS * multiple:
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
