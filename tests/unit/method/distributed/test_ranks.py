"""Shares of work: nothing is lost, the parts are even, and one process is all ranks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qcrd.method.distributed.process_ranks import is_connection_error
from qcrd.method.distributed.ranks import SingleRank, interleave, split_by_size


class RankOf(SingleRank):
    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size


@given(st.lists(st.integers()), st.integers(1, 5))
def test_the_parts_of_all_ranks_are_the_items_in_their_order(items: list[int], size: int) -> None:
    parts = [RankOf(rank, size).select_own(items) for rank in range(size)]
    assert interleave(parts) == items


@given(st.lists(st.integers(0, 10_000), max_size=40), st.integers(1, 6))
def test_parts_by_size_hold_each_item_once_and_differ_by_the_largest_item_at_most(
    sizes: list[int], n_parts: int
) -> None:
    parts = split_by_size(sizes, n_parts)
    assert sorted(i for part in parts for i in part) == list(range(len(sizes)))
    assert all(part == sorted(part) for part in parts)
    loads = [sum(sizes[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(sizes, default=0)


def test_items_of_no_size_are_spread_too() -> None:
    assert [len(part) for part in split_by_size([0, 0, 0, 0], 2)] == [2, 2]


def test_a_single_process_is_the_main_rank_and_all_ranks() -> None:
    ranks = SingleRank()
    assert ranks.is_main
    assert ranks.sum([1, 2.5]) == [1.0, 2.5]
    assert ranks.gather(lambda: "own") == ["own"]
    assert ranks.gather_in_background(lambda: "own") == ["own"]
    assert ranks.run_on_main(lambda: "own") == "own"
    assert ranks.gather_lists(lambda: [1, 2]) == [1, 2]


def test_a_lost_connection_is_told_from_a_fault_of_this_rank() -> None:
    reset = RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer.")
    assert is_connection_error(reset)
    assert not is_connection_error(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_connection_error(ValueError("gloo"))
