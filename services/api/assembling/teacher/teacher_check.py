"""Looks whether the teachers answer, take their keys and know their models, before a job finds out.

Nothing is generated, so it costs nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from qcrd.errors import QcrdError, Transient
from qcrd.records.teachers.notes import TeacherCheck, TeacherState
from qcrd.runtime.redis.teacher_notes import TeacherNotes
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.openai.models import is_listed
from services.api.assembling.teacher.teacher_client import TeacherInfo
from services.api.assembling.teacher.teacher_errors import KeyRefused, NoTokenizer
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

SHOWN_MODELS = 8
PROBE_TEXT = "a"
"""Of which tokens are counted: a TGI asks for its key there, and not where it tells its model."""

Finding = tuple[TeacherState, str]


async def check_teacher(name: str, teacher: TeacherConfig) -> Finding:
    """How it is, and a sentence about it."""
    try:
        info = await _ask(name, teacher)
    except KeyRefused:
        return "refused", f"teacher {name} refuses the key: {_say_whose_key(teacher)}"
    except Transient as error:
        return "away", error.message
    except QcrdError as error:
        return "refused", error.message
    return _judge_model(name, teacher, info)


async def _ask(name: str, teacher: TeacherConfig) -> TeacherInfo:
    client = make_teacher_client(name, teacher)
    try:
        info = await client.fetch_info()
        if teacher.api == "tgi":
            await client.check_upstream()
            await client.count_tokens([PROBE_TEXT])
    except NoTokenizer:
        pass
    finally:
        await client.close()
    return info


def _say_whose_key(teacher: TeacherConfig) -> str:
    if teacher.key_place:
        return f"look at {teacher.key_place} in the setting QCRD_TEACHERS"
    return "it has none; give one by `api_key_file` or `api_key_env` in the setting QCRD_TEACHERS"


def _judge_model(name: str, teacher: TeacherConfig, info: TeacherInfo) -> Finding:
    if teacher.model is None or teacher.api == "tgi":
        return "ok", f"teacher {name} answers"
    if info.models is None:
        return "ok", f"teacher {name} answers; it lists no models by which its name is checked"
    if is_listed(teacher.model, info.models):
        return "ok", f"teacher {name} answers and has the model {teacher.model}"
    nearest = get_close_matches(teacher.model, info.models, n=SHOWN_MODELS, cutoff=0.4)
    shown = nearest or sorted(info.models)[:SHOWN_MODELS]
    return "unlisted", (
        f"teacher {name} lists no model {teacher.model!r} (`model` in the setting QCRD_TEACHERS): "
        f"of the {len(info.models)} that it lists the nearest are {', '.join(shown)}"
    )


@dataclass(frozen=True)
class TeacherChecker:
    """`told` is what was logged last of each teacher: a change is logged once."""

    teachers: Mapping[str, TeacherConfig]
    notes: TeacherNotes
    told: dict[str, Finding] = field(default_factory=dict)

    def check(self) -> bool:
        """Look at all of them; whether all are well."""
        findings = asyncio.run(self._ask_all())
        for name, finding in findings.items():
            if isinstance(finding, BaseException):
                log.error("teacher %s could not be checked", name, exc_info=finding)
                continue
            self._tell(name, finding)
            note_finding(self.notes, self.teachers[name].identify(name), finding)
        return all(
            not isinstance(finding, BaseException) and finding[0] == "ok"
            for finding in findings.values()
        )

    async def _ask_all(self) -> dict[str, Finding | BaseException]:
        asked = (check_teacher(name, teacher) for name, teacher in self.teachers.items())
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return dict(zip(self.teachers, answers, strict=True))

    def _tell(self, name: str, finding: Finding) -> None:
        if self.told.get(name) == finding:
            return
        self.told[name] = finding
        log.log(logging.INFO if finding[0] == "ok" else logging.WARNING, "%s", finding[1])


def note_finding(notes: TeacherNotes, teacher: str, finding: Finding) -> None:
    """For the gateways. `teacher`: the digest of its configuration."""
    now, before = time.time(), notes.read_check(teacher)
    state, message = finding
    since = before.since if before is not None and before.state == state else now
    notes.write_check(
        teacher, TeacherCheck(state=state, message=message, since=since, checked_at=now)
    )
