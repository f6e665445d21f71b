"""Validation cache: results of checking a file, kept for later jobs on the same file.

A file's id is a digest of its content, so a result never expires.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from cachetools import LRUCache, cached

from qcrd.errors import Invalid, NotFound

MAX_ENTRIES = 1000


class ValidationCache:
    """The last `max_entries` results of this process. While a file is being read, other requests
    for the same check wait for its result."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        results: LRUCache[Hashable, int | Invalid] = LRUCache(max_entries)
        self._run_validation_once = cached(
            results, key=lambda key, validate: key, condition=threading.Condition()
        )(_run_validation)

    def get_or_validate(self, key: Hashable, validate: Callable[[], int]) -> int:
        """Return what `validate` returns or raise its `Invalid`; called only the first time."""
        result = self._run_validation_once(key, validate)
        if isinstance(result, Invalid):
            # A new one each time: an exception that is raised again grows by its traceback.
            raise Invalid(result.message, param=result.param, code=result.code)
        return result


def _run_validation(key: Hashable, validate: Callable[[], int]) -> int | Invalid:
    try:
        return validate()
    except NotFound:
        raise  # the file was deleted meanwhile, which says nothing about its content
    except Invalid as error:
        return error.with_traceback(None)
