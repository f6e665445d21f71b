"""A row of the table that `qcrd doctor` prints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """`fix` is the advice to the user. Only state `missing` sets the exit code to 1."""

    what: str
    state: Literal["ok", "advice", "missing"]
    detail: str
    fix: str = ""
