"""One line of what `qcrd doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`fix` says how to get what is missing. Only a `missing` one makes the exit code 1."""

    what: str
    state: Literal["ok", "advice", "missing"]
    detail: str
    fix: str = ""
