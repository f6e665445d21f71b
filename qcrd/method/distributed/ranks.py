"""Ranks: the processes that train one student together, each running the same program.

What only one of them may do (talk to the judge, write the event log) the main rank does, and all
get its result; what takes long (sampling, validation) each does a part of, and all get all parts.
An error of one of them is raised on every rank, so that none waits for one that has given up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch.distributed import ProcessGroup

T = TypeVar("T")

Json = Any
"""What `json` reads and writes: nothing else travels between ranks, no pickle above all."""


class Ranks(ABC):
    """The ranks of one training, seen from one of them. Every rank makes the same calls in the same
    order."""

    rank: int
    size: int
    background_group: ProcessGroup | None = None
    """The group of `gather_in_background`; None for a single process without any."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def select_own(self, items: Sequence[T]) -> list[T]:
        """This rank's part of `items`, every `size`-th of them; `interleave` undoes it."""
        return list(items[self.rank :: self.size])

    @abstractmethod
    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums of every rank's `values`, the same bits on all ranks. Quick: no rank may be
        busy with anything but a step."""

    @abstractmethod
    def gather(self, work: Callable[[], Json]) -> list[Json]:
        """What `work` returned on each rank, by rank, however long it took."""

    @abstractmethod
    def run_on_main(self, work: Callable[[], Json]) -> Json:
        """What `work` returned on the main rank, however long it took."""

    @abstractmethod
    def gather_in_background(self, work: Callable[[], Json]) -> list[Json]:
        """As `gather`, for one thread beside the training, by a group of its own."""

    def gather_lists(self, work: Callable[[], Sequence[Json]]) -> list[Json]:
        """The results for all items, where `work` gives those for `select_own(items)`."""
        return interleave(self.gather(lambda: list(work())))


class SingleRank(Ranks):
    """One process, which is all ranks."""

    rank, size = 0, 1

    def sum(self, values: Sequence[float]) -> list[float]:
        return [float(value) for value in values]

    def gather(self, work: Callable[[], Json]) -> list[Json]:
        return [work()]

    def run_on_main(self, work: Callable[[], Json]) -> Json:
        return work()

    def gather_in_background(self, work: Callable[[], Json]) -> list[Json]:
        return [work()]


def interleave(parts: Sequence[Sequence[T]]) -> list[T]:
    """The items whose every `len(parts)`-th, from the k-th on, is `parts[k]`."""
    size = len(parts)
    return [parts[i % size][i // size] for i in range(sum(map(len, parts)))]


def split_by_size(sizes: Sequence[int], n_parts: int) -> list[list[int]]:
    """Indices of the items in `n_parts` parts of nearly equal sums, each in the items' order: the
    largest item first, each to the part with the least so far. Parts may be empty."""
    loads, parts = [0] * n_parts, [list[int]() for _ in range(n_parts)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        least = min(range(n_parts), key=lambda part: (loads[part], len(parts[part]), part))
        parts[least].append(index)
        loads[least] += sizes[index]
    return [sorted(part) for part in parts]
