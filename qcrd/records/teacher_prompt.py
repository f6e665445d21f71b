"""The prompt of one question, in one of the two forms that teachers take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

PromptStyle = Literal["completion", "chat"]
"""`completion`: a text that the teacher continues; `chat`: messages that it replies to."""


class ChatMessage(NamedTuple):
    role: Literal["system", "user", "assistant"]
    content: str

    def to_dict(self) -> dict[str, str]:
        return self._asdict()


@dataclass(frozen=True)
class TeacherPrompt:
    """The text that a teacher continues or, where there are `messages`, the chat that it replies
    to; `text` then holds all of them, for whoever measures or counts."""

    text: str
    messages: tuple[ChatMessage, ...] = ()

    @classmethod
    def from_messages(cls, messages: tuple[ChatMessage, ...]) -> TeacherPrompt:
        return cls("\n\n".join(f"{each.role}: {each.content}" for each in messages), messages)

    @property
    def style(self) -> PromptStyle:
        return "chat" if self.messages else "completion"
