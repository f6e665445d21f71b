"""What a job says of its teacher: since when it is away, and what was learnt of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import Transient
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.keys import digest
from services.api.assembling.teacher.teacher_client import Notify


def describe_outage(reason: str, since: float | None) -> str:
    """`since` None: it begins now."""
    began = time.gmtime(time.time() if since is None else since)
    return f"{reason}, since {time.strftime('%Y-%m-%d %H:%M:%S', began)} UTC"


def make_notify(stage: StageContext) -> Notify:
    """Notices for the job's events, each of them once however often it is met."""
    name = stage.job.spec.settings.teacher

    def notify(notice: str) -> None:
        stage.emit(f"teacher {name}: {notice}", once=f"teacher-{digest(notice)}")

    return notify


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
