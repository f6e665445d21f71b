"""How a published student wants to be asked, and how its answer reads: `qcrd.json` beside its
weights."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ConfigDict, Field

from qcrd.records.base import Record
from qcrd.records.spec import AnswerKind

PROMPT_FORMAT_FILE = "qcrd.json"
"""The file in the model's folder that holds its `Manner`."""

# As it reads back: tokenizers that split words put a space before the colon.
ANSWER_MARKER = re.compile(r"\banswer\s*:")
"""A single-task student explains first; its label follows the last of these."""

TokenCount = Annotated[int, Field(ge=1)]


class PromptFormat(Record):
    """`explain` is None for a student that has no task of that name; a `joined` one gives its
    rationale and then its label under `predict`. `suffix` ends every prompt: a decoder-only
    student answers after it. Models outlive versions, so unknown keys are ignored.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    predict: str
    explain: str | None = None
    suffix: str = ""
    max_label_tokens: TokenCount = 32
    max_rationale_tokens: TokenCount = 256
    answer: AnswerKind | None = None
    labels: tuple[str, ...] = ()
    joined: bool = False

    @property
    def can_explain(self) -> bool:
        """Whether it has learned to give rationales."""
        return self.joined or self.explain is not None

    @property
    def max_new_tokens(self) -> int:
        """Tokens that an answer under `predict` may have."""
        return self.max_label_tokens + self.max_rationale_tokens * self.joined

    def format_prompt(self, prefix: str, question: str) -> str:
        """`prefix` is `predict` or `explain`."""
        return f"{prefix}{question.strip()}{self.suffix}"

    def split_output(self, output: str) -> tuple[str, str]:
        """Rationale and label of what was said under `predict`; without a mark all is label."""
        markers = list(ANSWER_MARKER.finditer(output)) if self.joined else []
        if not markers:
            return "", output.strip()
        return output[: markers[-1].start()].strip(), output[markers[-1].end() :].strip()
