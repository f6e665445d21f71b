"""What counts as memory that ran out."""

from __future__ import annotations

import subprocess
import tempfile

import pytest
import torch

from services.trainer.execution.local import LocalExecutor, LocalTraining
from services.trainer.supervision.memory import count_oom_kills, is_out_of_memory
from services.trainer.supervision.process_outcome import make_crash_outcome, write_outcome


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


@pytest.mark.parametrize(("kills", "expected"), [(0, "crashed"), (1, "out_of_memory")])
def test_a_rank_that_the_kernel_killed_is_no_crash_of_the_others(kills: int, expected: str) -> None:
    """The ranks that are left tell that they have lost it."""
    counts = iter([3, 3 + kills])
    executor = LocalExecutor(grace_seconds=1, count_memory_kills=lambda: next(counts))
    process = subprocess.Popen(["true"], start_new_session=True)
    training = LocalTraining(process, tempfile.TemporaryDirectory(), next(counts))
    write_outcome(training.outcome_path, make_crash_outcome(ValueError("rank 1 is gone")))
    outcome = executor.outcome(training)
    assert outcome is not None
    assert outcome.kind == expected
