"""Since when a teacher, or the server behind it, is away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import Transient
from qcrd.runtime.jobs.stage_context import StageContext


def describe_outage(reason: str, since: float | None) -> str:
    """`since` None: it begins now."""
    began = time.gmtime(time.time() if since is None else since)
    return f"{reason}, since {time.strftime('%Y-%m-%d %H:%M:%S', began)} UTC"


@contextmanager
def raise_dated(stage: StageContext) -> Iterator[None]:
    """`Transient` as it is raised here tells since when the job waits, over all of its attempts."""
    try:
        yield
    except Transient as error:
        raise Transient(
            describe_outage(error.message, stage.job.waiting_since),
            param=error.param,
            code=error.code,
            retry_after=error.retry_after,
        ) from error
