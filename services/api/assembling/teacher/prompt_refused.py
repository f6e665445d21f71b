"""A teacher's refusal of one prompt, and why."""

from __future__ import annotations

import re
from typing import Literal

from qcrd.errors import Invalid
from qcrd.records.teacher_protocol import CONTENT_FILTERED

RefusalReason = Literal["too_long", "filtered", "refused"]
TOO_LONG_PATTERN = re.compile(
    r"must have less than|`inputs` tokens \+|too long|context (length|size|window)", re.IGNORECASE
)
"""TGI's two messages about lengths, and those of the servers that may be behind it."""


class PromptRefused(Invalid):
    """This prompt is not answered, however often it is asked; others may be."""

    default_code = "teacher_refused"

    def __init__(self, message: str, reason: RefusalReason) -> None:
        super().__init__(message)
        self.reason: RefusalReason = reason


def make_refusal(label: str, told: str) -> PromptRefused:
    reason: RefusalReason = "refused"
    if told.startswith(CONTENT_FILTERED):
        reason = "filtered"
    elif TOO_LONG_PATTERN.search(told):
        reason = "too_long"
    return PromptRefused(f"{label} refuses a prompt: {told}", reason)
