"""The outcome of a training, as its processes tell it to the worker that had it started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from qcrd.errors import Interrupted, Invalid, QcrdError, Transient
from qcrd.records.base import Record
from qcrd.records.job import JobFailure, Report
from services.trainer.supervision.memory import OUT_OF_MEMORY, is_out_of_memory

OutcomeKind = Literal["done", "failed", "waiting", "stopped", "crashed", "out_of_memory"]

EXIT_CODES: Mapping[OutcomeKind, int] = MappingProxyType(
    {"done": 0, "failed": 64, "waiting": 75, "stopped": 143, "crashed": 1, "out_of_memory": 1}
)
"""Of a training process and of its launcher, where whoever runs them sees no more than that.
sysexits.h's EX_USAGE (the user's doing) and EX_TEMPFAIL, and what SIGTERM makes."""


class Outcome(Record):
    kind: OutcomeKind
    report: Report | None = None
    model: str | None = None
    failure: JobFailure | None = None


def write_outcome(path: Path, outcome: Outcome) -> None:
    """Write the file atomically: the process can be killed while it writes."""
    partial = path.with_suffix(".partial")
    partial.write_text(outcome.model_dump_json())
    partial.rename(path)


def read_outcome(path: Path) -> Outcome | None:
    return Outcome.model_validate_json(path.read_text()) if path.exists() else None


def make_crash_outcome(error: Exception) -> Outcome:
    if is_out_of_memory(error):
        return make_memory_outcome(f"the training process ran out of memory: {error}")
    message = f"the training process crashed: {type(error).__name__}: {error}"
    return Outcome(kind="crashed", failure=JobFailure(message=message, code="internal_error"))


def make_memory_outcome(reason: str) -> Outcome:
    failure = JobFailure(message=reason, code=OUT_OF_MEMORY)
    return Outcome(kind="out_of_memory", failure=failure)


def make_error_outcome(error: QcrdError) -> Outcome:
    failure = JobFailure(message=error.message, code=error.code, param=error.param)
    return Outcome(kind="waiting" if isinstance(error, Transient) else "failed", failure=failure)


class ProcessDied(RuntimeError):
    """The training process crashed or ended without an outcome, which costs the job an attempt."""


def make_error(outcome: Outcome) -> Exception:
    """The error that an outcome other than `done` stands for, to be raised again."""
    if outcome.kind == "stopped" or outcome.failure is None:
        return Interrupted("the training process was asked to stop")
    failure = outcome.failure
    if outcome.kind == "crashed":
        return ProcessDied(failure.message)
    error_class = Transient if outcome.kind == "waiting" else Invalid
    return error_class(failure.message, param=failure.param, code=failure.code)
