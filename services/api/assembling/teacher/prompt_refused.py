"""A teacher's refusal of one prompt, and why."""

from __future__ import annotations

import re
from typing import Literal

from qcrd.errors import Invalid
from qcrd.records.teachers.protocol import CONTENT_FILTERED

RefusalReason = Literal["too_long", "filtered", "refused"]
TOO_LONG_PATTERN = re.compile(
    r"must have less than|`inputs` tokens \+|too long|context (?:length|size|window)"
    r"|too large for model|maximum (?:number of tokens|prompt length)|input tokens exceed"
    r"|reduce the length|tokens to keep from the initial prompt",
    re.IGNORECASE,
)
"""TGI's two messages about lengths, and those of OpenAI-compatible servers: read 2026-11-28 in the
sources and issues of Mistral, Gemini, xAI, OpenAI, Groq and LM Studio."""


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
