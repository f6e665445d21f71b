"""The text of a conversation, as a student is trained on it and asked it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

INSTRUCTING_ROLES = frozenset({"system", "developer"})


class Turn(NamedTuple):
    role: str
    content: str


def render_conversation(turns: Sequence[Turn]) -> str:
    """A single turn is its content; of several, each begins with its role but for instructions."""
    if len(turns) == 1:
        return turns[0].content.strip()
    return "\n\n".join(
        turn.content.strip()
        if turn.role in INSTRUCTING_ROLES
        else f"{turn.role.capitalize()}: {turn.content.strip()}"
        for turn in turns
    )
