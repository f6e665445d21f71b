"""Who reads a shared prompt: llama.cpp copies the state of a prompt it has finished reading into
other slots, but requests that arrive together all start cold. These gates let one of them read.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# Few-shot prompts of one task agree for longer than this many characters; chat preambles do not.
HEAD = 256
HEADS_KEPT = 64
# Samples of one prompt are sent together; this is nothing beside reading a prompt.
GATHER_SECONDS = 0.005


class PrefixGate:
    """Reads a shared prompt beginning once instead of once per slot.

    The first request with a new beginning runs freely; the second reads it for everybody; those
    after it wait until it has been read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._heads: OrderedDict[str, threading.Event | None] = OrderedDict()

    def enter(self, prompt: str, read: Callable[[], None]) -> None:
        """Return when `prompt` may run; `read` reads it. Blocks: call it from a worker thread."""
        head = prompt[:HEAD]
        if len(head) < HEAD:
            return
        with self._lock:
            first = head not in self._heads
            known = self._heads.setdefault(head, None)
            self._heads.move_to_end(head)
            while len(self._heads) > HEADS_KEPT:
                self._heads.popitem(last=False)
            if first:
                return
            done = known or threading.Event()
            self._heads[head] = done
        if known is not None:
            done.wait()
            return
        try:
            read()
        finally:
            done.set()


@dataclass
class _Prompt:
    """One whole prompt while requests for it are open."""

    open: int = 0
    read: threading.Event | None = None


class SampleGate:
    """Reads a whole prompt once for all its samples, when more than one is there at its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prompts: dict[str, _Prompt] = {}

    @contextmanager
    def expecting(self, prompt: str) -> Iterator[None]:
        """A request for `prompt` is open. Enter this when it arrives, not when its turn comes."""
        with self._lock:
            self._prompts.setdefault(prompt, _Prompt()).open += 1
        try:
            yield
        finally:
            with self._lock:
                entry = self._prompts[prompt]
                entry.open -= 1
                if not entry.open:
                    del self._prompts[prompt]

    def enter(self, prompt: str, read: Callable[[], None]) -> bool:
        """Return when `prompt` may run: True once it has been read for several, False when this
        request is its only one. Blocks: call it from a worker thread.
        """
        entry = self._prompts.get(prompt)
        if entry is None:  # its client has left
            return False
        if entry.open == 1:
            time.sleep(GATHER_SECONDS)
        with self._lock:
            if entry.open == 1 and entry.read is None:
                return False
            done, leads = entry.read or threading.Event(), entry.read is None
            entry.read = done
        if not leads:
            done.wait()
            return True
        try:
            read()
        finally:
            done.set()
        return True
