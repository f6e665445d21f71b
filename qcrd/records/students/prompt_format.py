"""The prompt and output format of a published student: `qcrd.json` beside its weights."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import ConfigDict, Field

from qcrd.records.base import Record
from qcrd.records.specs.task import AnswerKind
from qcrd.records.students.answer_form import AnswerForm
from qcrd.records.students.confidence import Confidence
from qcrd.records.students.control_tokens import ControlTokenSplitter

PROMPT_FORMAT_FILE = "qcrd.json"
"""The file in the model's folder that holds its `PromptFormat`."""
ADAPTER_FOLDER = "adapter"
"""The folder in it that holds a LoRA student's adapter, for PEFT; others have none."""

# Decoded text: some tokenizers put a space before the colon.
ANSWER_MARKER = re.compile(r"\banswer\s*:")
"""A single-task student gives its rationale first; its label follows the last marker."""
JOINED_ANSWER_PREFIX = "answer:"
"""The marker as it is trained: between rationale and label in the single-task target."""

TokenCount = Annotated[int, Field(ge=1)]


class AnswerJudge(Record):
    """The judge of a student's outputs, at the discriminator. `reason`: why it is not offered."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    version: int
    reason: str | None = None


class PromptFormat(Record):
    """`predict` and `explain` are prompt prefixes; `explain` is None for a student without that
    task. A `joined` student gives its rationale and then its label under `predict`. `suffix` ends
    every prompt of a decoder-only student. One of a `conversation` is asked the whole chat. Models
    outlive versions, so unknown keys are ignored.
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
    control_tokens: tuple[str, ...] = ()
    """Of the tokenizer: in a question they are text, as they were in training."""
    answer_form: AnswerForm | None = None
    """Of a student whose answer is held to the task's labels; None: it says what it says."""
    conversation: bool = False
    confidence: Confidence | None = None
    """How sure it is of a greedy answer; None in folders of before it was calibrated."""
    vote_confidence: Confidence | None = None
    """And of a vote of several outputs; None where none was measured."""
    judge: AnswerJudge | None = None
    """None where no judge of answers was asked for."""

    @property
    def can_explain(self) -> bool:
        """Whether it was trained to give rationales."""
        return self.joined or self.explain is not None

    @property
    def max_new_tokens(self) -> int:
        """Longest output under `predict`."""
        return self.max_label_tokens + self.max_rationale_tokens * self.joined

    def format_prompt(self, prefix: str, question: str) -> str:
        """`prefix` is `predict` or `explain`."""
        text = ControlTokenSplitter(self.control_tokens).split(question.strip())
        return f"{prefix}{text}{self.suffix}"

    def split_output(self, output: str, *, is_cut: bool = False) -> tuple[str, str]:
        """Rationale and label of an output under `predict`; one that was cut before its label
        came is all rationale."""
        if self.joined and is_cut and not ANSWER_MARKER.search(output):
            return output.strip(), ""
        return split_joined_output(output) if self.joined else ("", output.strip())


def split_joined_output(output: str) -> tuple[str, str]:
    """Rationale and label of a single-task student's output; without a marker it is all label."""
    markers = list(ANSWER_MARKER.finditer(output))
    if not markers:
        return "", output.strip()
    return output[: markers[-1].start()].strip(), output[markers[-1].end() :].strip()


def read_own_rationale(output: str) -> str:
    """The rationale of a single-task student's output; all of it where no label came, as of one
    that reached its limit."""
    return split_joined_output(output)[0] if ANSWER_MARKER.search(output) else output.strip()
