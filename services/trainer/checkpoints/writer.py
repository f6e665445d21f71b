"""Writes checkpoints beside the training, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future

from qcrd.method.training.checkpoint import TrainerState, copy_moments
from qcrd.runtime.daemon_call import start_daemon_call
from services.trainer.checkpoints.store import CheckpointStore

MAX_COST_SHARE = 0.05
"""Share of the training's time that it may stand still for checkpoints; they are rarer where it
would be more."""


class CheckpointWriter:
    """Saves states of one student; `on_saved` gets what `CheckpointStore.save` returned.

    A state is copied at once and written by a thread; what goes wrong there is raised at the next
    call.
    """

    def __init__(
        self, checkpoints: CheckpointStore, method: str, on_saved: Callable[[int], None]
    ) -> None:
        self._checkpoints = checkpoints
        self._method = method
        self._on_saved = on_saved
        self._saving: Future[None] | None = None
        self._saved_at, self._stood_still = time.monotonic(), 0.0

    def is_due(self) -> bool:
        """Whether the last state is old enough for another; never while one is being written."""
        if self._saving is not None and not self._saving.done():
            return False
        interval = max(self._checkpoints.interval_seconds, self._stood_still / MAX_COST_SHARE)
        return time.monotonic() - self._saved_at >= interval

    def save(self, state: TrainerState) -> None:
        self.wait()
        started = time.monotonic()
        copied = copy_moments(state)
        self._saving = start_daemon_call(lambda: self._write(copied))
        self._saved_at = time.monotonic()
        self._stood_still = self._saved_at - started

    def wait(self) -> None:
        """Until the last state is written."""
        saving, self._saving = self._saving, None
        if saving is not None:
            saving.result()

    def _write(self, state: TrainerState) -> None:
        self._on_saved(self._checkpoints.save(self._method, state))
