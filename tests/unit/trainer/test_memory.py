"""What counts as memory that ran out."""

from __future__ import annotations

import pytest
import torch

from services.trainer.supervision.memory import count_oom_kills, is_out_of_memory
from services.trainer.supervision.process_outcome import make_crash_outcome


def test_a_refused_allocation_is_no_crash() -> None:
    """A real one: an exabyte."""
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert make_crash_outcome(raised.value).kind == "out_of_memory"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("not enough memory to remember"), False),
    ],
)
def test_other_errors_stay_what_they_are(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
    assert make_crash_outcome(error).kind == ("out_of_memory" if expected else "crashed")


def test_the_kernel_s_count_never_falls() -> None:
    assert 0 <= count_oom_kills() <= count_oom_kills()
