"""Validation cache: results of checking a file, kept for later jobs on the same file.

A file's id is a digest of its content, so a result never expires.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from qcrd.errors import Invalid, NotFound

MAX_ENTRIES = 1000


@dataclass
class _CacheEntry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    result: int | Invalid | None = None


class ValidationCache:
    """The last `max_entries` results of this process. While a file is being read, other requests
    for the same check wait for its result."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, _CacheEntry] = OrderedDict()

    def get_or_validate(self, key: Hashable, validate: Callable[[], int]) -> int:
        """Return what `validate` returns or raise its `Invalid`; called only the first time."""
        entry = self._get_entry(key)
        with entry.lock:
            if entry.result is None:
                entry.result = _run_validation(validate)
        if isinstance(entry.result, Invalid):
            # A new one each time: an exception that is raised again grows by its traceback.
            cached = entry.result
            raise Invalid(cached.message, param=cached.param, code=cached.code)
        return entry.result

    def _get_entry(self, key: Hashable) -> _CacheEntry:
        with self._lock:
            entry = self._entries.setdefault(key, _CacheEntry())
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_entries:
                self._entries.popitem(last=False)
            return entry


def _run_validation(validate: Callable[[], int]) -> int | Invalid:
    try:
        return validate()
    except NotFound:
        raise  # the file was deleted meanwhile, which says nothing about its content
    except Invalid as error:
        return error.with_traceback(None)
