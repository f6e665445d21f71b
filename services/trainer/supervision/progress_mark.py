"""The sign of progress of a training, which its worker watches.

The worker renews the job's lease, so a process that hangs, or that was stopped, would keep the job
for ever. That it lives says nothing: what counts is that it comes past the next batch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ProgressMark:
    """Touches a file at each step and each batch, in the training process and its sampler's."""

    path: Path

    def __call__(self) -> None:
        self.path.touch()


class ProgressWatch:
    """How long a mark has stayed the same, by this process's clock."""

    def __init__(self) -> None:
        self._last_mark: object = None
        self._changed_at = time.monotonic()

    def seconds_without_progress(self, mark: object) -> float:
        if mark != self._last_mark:
            self._last_mark, self._changed_at = mark, time.monotonic()
        return time.monotonic() - self._changed_at
