"""Prefill of a shared prompt by one request: llama.cpp copies the state of a prompt it has read
into other slots, but requests that arrive together would each read it. These gates let one
of them read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cachetools import LRUCache

# Few-shot prompts of one task agree for longer than this many characters; chat preambles do not.
PREFIX_CHARACTERS = 256
MAX_PREFIXES = 64
# Samples of one prompt are sent together; this is short compared to reading a prompt.
BATCH_WAIT_SECONDS = 0.005


class PrefixGate:
    """Reads a shared prompt beginning once instead of once per slot.

    The first request with a new beginning runs freely; the second reads it for all; those
    after it wait until it has been read.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prefixes: LRUCache[str, threading.Event | None] = LRUCache(MAX_PREFIXES)

    def wait_for_prefill(self, prompt: str, prefill: Callable[[], None]) -> None:
        """Return when `prompt` may run; `prefill` reads it. Blocks: for worker threads."""
        prefix = prompt[:PREFIX_CHARACTERS]
        if len(prefix) < PREFIX_CHARACTERS:
            return
        with self._lock:
            if prefix not in self._prefixes:
                self._prefixes[prefix] = None
                return
            pending = self._prefixes[prefix]
            done = pending or threading.Event()
            self._prefixes[prefix] = done
        if pending is not None:
            done.wait()
            return
        try:
            prefill()
        finally:
            done.set()


@dataclass
class _OpenPrompt:
    """One whole prompt while requests for it are open."""

    open_requests: int = 0
    prefilled: threading.Event | None = None


class SampleGate:
    """Reads a whole prompt once for all its samples, when more than one is there at its start."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._prompts: dict[str, _OpenPrompt] = {}

    @contextmanager
    def track_request(self, prompt: str) -> Iterator[None]:
        """A request for `prompt` is open. Enter this when it arrives, not when its turn comes."""
        with self._lock:
            self._prompts.setdefault(prompt, _OpenPrompt()).open_requests += 1
        try:
            yield
        finally:
            with self._lock:
                entry = self._prompts[prompt]
                entry.open_requests -= 1
                if not entry.open_requests:
                    del self._prompts[prompt]

    def wait_for_prefill(self, prompt: str, prefill: Callable[[], None]) -> bool:
        """Return when `prompt` may run: True once it has been read for several, False when this
        request is its only one. Blocks: call it from a worker thread.
        """
        entry = self._prompts.get(prompt)
        if entry is None:  # its client has left
            return False
        if entry.open_requests == 1:
            time.sleep(BATCH_WAIT_SECONDS)
        with self._lock:
            if entry.open_requests == 1 and entry.prefilled is None:
                return False
            done, is_leader = entry.prefilled or threading.Event(), entry.prefilled is None
            entry.prefilled = done
        if not is_leader:
            done.wait()
            return True
        try:
            prefill()
        finally:
            done.set()
        return True
