"""Enqueuing of a job that is kept already."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import Transient

log = logging.getLogger(__name__)


@contextmanager
def enqueue_or_leave_to_reaper(job: str) -> Iterator[None]:
    """The queue's absence is only logged: the reaper sends what was not. `job` names it."""
    try:
        yield
    except Transient as error:
        log.warning("%s not enqueued, the reaper will: %s", job, error)
