"""The client for a teacher's protocol."""

from __future__ import annotations

import logging

from services.api.assembling.teacher.memory import FORGETFUL, TeacherMemory
from services.api.assembling.teacher.openai.client import OpenAIClient
from services.api.assembling.teacher.teacher_client import Notify, TeacherClient
from services.api.assembling.teacher.teacher_errors import TeacherUnreachable
from services.api.assembling.teacher.tgi_client import TgiClient
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)


def make_teacher_client(
    name: str,
    teacher: TeacherConfig,
    notify: Notify | None = None,
    memory: TeacherMemory = FORGETFUL,
) -> TeacherClient:
    """`notify` hears what is learnt of the teacher while it is asked, and `memory` keeps it.
    `TeacherUnreachable` while the file with its key is away, as it may be when keys are rotated."""

    def log_notice(notice: str) -> None:
        log.info("teacher %s: %s", name, notice)

    kind = OpenAIClient if teacher.api == "openai" else TgiClient
    try:
        return kind(name, teacher, notify or log_notice, memory)
    except ValueError as error:  # of its key, which could be read when this process began
        raise TeacherUnreachable(f"teacher {name}: {error}") from error
