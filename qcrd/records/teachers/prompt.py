"""The prompt of one question, in one of the two forms that teachers take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

PromptStyle = Literal["completion", "chat"]
"""`completion`: a text that the teacher continues; `chat`: messages that it replies to."""


AnswerStructure = Literal["none", "grammar", "schema"]
"""What holds the answer to its form while it is written: nothing, a regular expression of a
continued text, or a JSON schema of a chat's reply."""


class PromptForm(NamedTuple):
    style: PromptStyle = "completion"
    structure: AnswerStructure = "none"


class ChatMessage(NamedTuple):
    role: Literal["system", "user", "assistant"]
    content: str

    def to_dict(self) -> dict[str, str]:
        return self._asdict()


@dataclass(frozen=True)
class TeacherPrompt:
    """The text that a teacher continues or, where there are `messages`, the chat that it replies
    to; `text` then holds all of them, for whoever measures or counts. `grammar` is a regular
    expression of the answer, `schema` the JSON text of its JSON schema; "" where it is free."""

    text: str
    messages: tuple[ChatMessage, ...] = ()
    grammar: str = ""
    schema: str = ""

    @classmethod
    def from_messages(cls, messages: tuple[ChatMessage, ...], schema: str = "") -> TeacherPrompt:
        text = "\n\n".join(f"{each.role}: {each.content}" for each in messages)
        return cls(text, messages, schema=schema)
