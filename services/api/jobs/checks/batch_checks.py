"""Check that a teacher has the routes that a job's batches need, before the job exists."""

from __future__ import annotations

import asyncio
import logging

from qcrd.errors import Invalid, QcrdError
from qcrd.records.specs.spec import JobSpec
from services.api.assembling import sampling_plan
from services.api.assembling.batches.choose import asks_by_batch
from services.api.assembling.teacher.openai.batches import NoBatches, make_batch_client
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)


def check_batch_routes(spec: JobSpec, teacher: TeacherConfig | None) -> None:
    """`Invalid` where it has none. A teacher that is away is no reason to refuse a job."""
    if teacher is None or spec.knowledge_of is not None or not sampling_plan.asks_teacher(spec):
        return
    if not asks_by_batch(spec, teacher):
        return
    try:
        asyncio.run(_ask_for_batches(spec.settings.teacher, teacher))
    except NoBatches as error:
        param = f"method.{spec.method}.rationales.batch"
        asked_by = f"`{param}`" if spec.settings.rationales.batch else "`batch` in QCRD_TEACHERS"
        raise Invalid(
            f"{asked_by}: {error.message}; ask it without, by `{param}: false`",
            param=param,
            code=error.code,
        ) from error
    except QcrdError as error:
        log.info("whether there are batches is not checked: %s", error)


async def _ask_for_batches(name: str, teacher: TeacherConfig) -> None:
    client = make_batch_client(name, teacher, log.info)
    try:
        await client.check_routes()
    finally:
        await client.close()
