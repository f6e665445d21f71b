"""Streams of random numbers for several trainings in one process.

Dropout draws from torch's generator of a device, which all threads of a process share: two judges
that are trained at once would take numbers from each other, and neither could be trained again to
the same weights.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_LOCK = threading.RLock()
"""Held while numbers are drawn from a stream, by one thread at a time."""


class RandomStream:
    """What torch draws within `drawing()`, a function of `seed` and of what was drawn there before,
    whatever is drawn elsewhere meanwhile."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._gpus = list[int]()
        if device.type == "cuda":
            self._gpus.append(torch.cuda.current_device() if device.index is None else device.index)
        with _LOCK, torch.random.fork_rng(self._gpus):
            torch.manual_seed(seed)
            self._states = self._read_states()

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """The block draws from this stream, and no other block with one runs beside it."""
        with _LOCK, torch.random.fork_rng(self._gpus):
            torch.set_rng_state(self._states[0])
            for gpu, state in zip(self._gpus, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, gpu)
            try:
                yield
            finally:
                self._states = self._read_states()

    def _read_states(self) -> list[torch.Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._gpus)]
