"""Retries of what is away for a moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qcrd.errors import Conflict, QcrdError, Transient
from qcrd.runtime.retrying import call_with_retries, compute_backoff


def failing(*errors: QcrdError) -> tuple[Callable[[], str], list[QcrdError]]:
    """A call that raises each of `errors` and returns then, and what it still has to raise."""
    left = list(errors)

    def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call, left


def test_a_call_is_repeated_as_often_as_there_are_delays() -> None:
    call, _ = failing(Transient("1"), Transient("2"))
    assert call_with_retries(call, (0.0, 0.0)) == "done"
    call, left = failing(Transient("1"), Transient("2"), Transient("3"), Transient("4"))
    with pytest.raises(Transient, match="3"):
        call_with_retries(call, (0.0, 0.0))
    assert len(left) == 1


def test_only_what_may_pass_is_tried_again() -> None:
    call, _ = failing(Conflict("no"))
    with pytest.raises(Conflict):
        call_with_retries(call, (0.0, 0.0))


def test_retries_can_be_ended_from_outside() -> None:
    call, left = failing(Transient("1"), Transient("2"))

    def stop(error: Transient) -> None:
        raise error

    with pytest.raises(Transient, match="1"):
        call_with_retries(call, (0.0, 0.0), before_retry=stop)
    assert len(left) == 1


def test_the_pause_doubles_up_to_the_longest() -> None:
    assert [compute_backoff(n, 0.5, 5.0) for n in range(5)] == [0.5, 1.0, 2.0, 4.0, 5.0]
    assert compute_backoff(10**6, 0.5, 5.0) == 5.0
