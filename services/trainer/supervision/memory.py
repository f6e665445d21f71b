"""Whether memory ran out, and what the user can do about it.

The kernel ends a process that takes too much with SIGKILL and without a word; only its own count of
such kills tells that from any other kill.
"""

from __future__ import annotations

import re
from pathlib import Path

from qcrd.records.specs.training_spec import Hyperparameters

OUT_OF_MEMORY = "out_of_memory"
RETRY_PARTS = 4
"""Parts that each step is computed in after memory ran out: a quarter of a step's activations."""

TORCH_SAYS = ("out of memory", "not enough memory", "can't allocate memory")
"""By its words, as the worker that reads this module has no use for torch."""
KILL_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))
"""The kernel's counts: of this container, and of the machine."""


def count_oom_kills() -> int:
    """Processes that the kernel has killed for memory; 0 where it does not tell."""
    texts = [path.read_text(encoding="ascii") for path in KILL_COUNTS if path.is_file()]
    return sum(int(count) for text in texts for count in re.findall(r"^oom_kill (\d+)", text, re.M))


def is_out_of_memory(error: BaseException) -> bool:
    """Of the GPU's memory, or of a limit that this process was given."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in TORCH_SAYS)
    )


def make_advice(method: str, hyper: Hyperparameters) -> str:
    path = f"method.{method}.hyperparameters"
    return (
        f"lower `{path}.batch_size` (now {hyper.batch_size}), `max_rationale_tokens` (now "
        f"{hyper.max_rationale_tokens}) or `max_question_tokens` (now {hyper.max_question_tokens}),"
        " take a smaller base or `student.lora`, or give the trainer more memory"
    )
