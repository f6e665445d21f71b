"""What a job says of its teacher: since when it is away, and what was learnt of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from qcrd.errors import QcrdError, Transient
from qcrd.runtime.jobs.stage_context import StageContext
from qcrd.runtime.keys import digest
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.teacher_client import Notify
from services.api.assembling.teacher.teacher_errors import TeacherUnreachable
from services.api.settings import TeacherConfig


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


async def check_teacher_is_back(name: str, teacher: TeacherConfig) -> None:
    """`TeacherUnreachable` while it, or the server behind it, is away. Other problems are left to
    the job's own requests, which tell them better."""
    client = make_teacher_client(name, teacher)
    try:
        await client.fetch_info()
        await client.check_upstream()
    except TeacherUnreachable:
        raise
    except QcrdError:
        return
    finally:
        await client.close()
