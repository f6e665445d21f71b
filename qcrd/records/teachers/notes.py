"""What is known of a teacher's server beside its configuration."""

from __future__ import annotations

import time
from typing import Literal

from qcrd.records.base import StoredRecord

TeacherState = Literal["ok", "away", "refused", "unlisted"]
"""`away`: it does not answer now. `refused`: it answers that asking again cannot help, as with a
wrong key. `unlisted`: it answers, and its list of models lacks the one that is configured."""


class LearntParameters(StoredRecord):
    """What a server was found not to take."""

    left_out: tuple[str, ...] = ()
    """Names of parameters, in their order."""
    max_choices: int | None = None
    """The most samples of a prompt that a request gets, where it is fewer than was asked for."""


class TeacherCheck(StoredRecord):
    """What a teacher's last check found; times in seconds since the epoch, `since` of the first
    check that found the same."""

    state: TeacherState
    message: str
    since: float
    checked_at: float

    @property
    def summary(self) -> str:
        if self.state == "ok":
            return "ok"
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.since))
        return f"{self.message}, since {began} UTC"
