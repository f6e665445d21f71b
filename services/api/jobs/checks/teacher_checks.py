"""Check how a job's teacher is, as it was found last, before the job exists."""

from __future__ import annotations

import asyncio

from qcrd.errors import Invalid, Transient
from qcrd.records.specs.spec import JobSpec
from qcrd.records.teachers.notes import TeacherCheck
from services.api.assembling import sampling_plan
from services.api.assembling.teacher.outages import describe_outage
from services.api.assembling.teacher.teacher_check import check_teacher, note_finding
from services.api.dependencies import Gateway


def check_teacher_takes_requests(spec: JobSpec, gateway: Gateway) -> None:
    """`Invalid` of one that was found to refuse every request, and still does: whoever has mended
    it need not wait for the next look at it."""
    check = _read_check(spec, gateway)
    if check is None or check.state != "refused":
        return
    name = spec.settings.teacher
    teacher = gateway.settings.teachers.teachers[name]
    finding = asyncio.run(check_teacher(name, teacher))
    state, message = finding
    if state == "refused":
        raise Invalid(message, param=f"method.{spec.method}.teacher", code="teacher_refused")
    note_finding(gateway.shared.teacher_notes, teacher.identify(name), finding)


def find_teacher_warning(spec: JobSpec, gateway: Gateway) -> str | None:
    """What may keep its teacher from answering, for the job's events."""
    check = _read_check(spec, gateway)
    if check is None or check.state in ("ok", "refused"):
        return None
    if check.state == "away":
        return f"{describe_outage(check.message, check.since)}; the job waits for it"
    return f"{check.message}; a job may find that it is taken all the same"


def _read_check(spec: JobSpec, gateway: Gateway) -> TeacherCheck | None:
    """None where nothing is known, or the job asks no teacher."""
    teacher = gateway.settings.teachers.teachers.get(spec.settings.teacher)
    if teacher is None or spec.knowledge_of is not None or not sampling_plan.asks_teacher(spec):
        return None
    try:
        return gateway.shared.teacher_notes.read_check(teacher.identify(spec.settings.teacher))
    except Transient:
        return None
