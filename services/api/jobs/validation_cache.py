"""What was found in a file when it was checked for a job, so that the next job need not read it.

A file's id is a digest of its content: what was found once is true for good.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from qcrd.errors import Invalid, NotFound

KEPT = 1000


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    found: int | Invalid | None = None


class Verdicts:
    """The last `kept` findings, of this process. While a file is being read, others who ask the
    same of it wait for the answer instead of reading it too."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()

    def of(self, asked: Hashable, read: Callable[[], int]) -> int:
        """What `read` returns or the `Invalid` it raises; it is called only the first time."""
        entry = self._entry(asked)
        with entry.lock:
            if entry.found is None:
                entry.found = _finding(read)
        if isinstance(entry.found, Invalid):
            # A new one each time: an exception that is raised again grows by its traceback.
            known = entry.found
            raise Invalid(known.message, param=known.param, code=known.code)
        return entry.found

    def _entry(self, asked: Hashable) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(asked, _Entry())
            self._entries.move_to_end(asked)
            while len(self._entries) > self._kept:
                self._entries.popitem(last=False)
            return entry


def _finding(read: Callable[[], int]) -> int | Invalid:
    try:
        return read()
    except NotFound:
        raise  # the file was deleted meanwhile, which says nothing about its content
    except Invalid as error:
        return error.with_traceback(None)
