"""What jobs of one teacher leave to later ones: what its server was found not to take."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from qcrd.errors import Transient
from qcrd.records.teachers.notes import LearntParameters
from qcrd.runtime.redis.teacher_notes import TeacherNotes
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherMemory:
    """`notes` None: nothing is remembered. What cannot be remembered is found out again."""

    notes: TeacherNotes | None
    teacher: str

    def recall(self) -> LearntParameters:
        if self.notes is None:
            return LearntParameters()
        try:
            return self.notes.read_learnt(self.teacher)
        except Transient as error:
            log.warning("what earlier jobs found out of a teacher is not known: %s", error)
            return LearntParameters()

    def remember(self, learnt: LearntParameters) -> None:
        """With what other jobs have found out meanwhile."""
        if self.notes is None:
            return
        known = self.recall()
        choices = [most for most in (known.max_choices, learnt.max_choices) if most is not None]
        try:
            self.notes.write_learnt(
                self.teacher,
                LearntParameters(
                    left_out=tuple(sorted({*known.left_out, *learnt.left_out})),
                    max_choices=min(choices, default=None),
                ),
            )
        except Transient as error:
            log.warning("what was found out of a teacher is not remembered: %s", error)


FORGETFUL = TeacherMemory(None, "")


def open_memory(notes: TeacherNotes | None, name: str, teacher: TeacherConfig) -> TeacherMemory:
    return TeacherMemory(notes, teacher.identify(name))
