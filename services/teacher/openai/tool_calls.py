"""Function calls: the grammar that forces one, and reading it back, whole or as it comes.

As in TGI the model writes `{"function": {"_name": NAME, …arguments}}`. Where it may also decline
there is one more function, `no_tool`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.teacher.errors import ToolError
from services.teacher.inference.wire import JSON, JsonGrammar
from services.teacher.openai.requests import Function, NamedChoice, Tool

DECLINED = "no_tool"
_DECLINE = Function(
    name=DECLINED,
    description="Answer in words; none of the functions helps here.",
    parameters={
        "type": "object",
        "properties": {"content": {"type": "string"}},
        "required": ["content"],
    },
)
PROMPT = (
    "These functions can be called. Choose the one that answers the request best and write the "
    "call as JSON, with the function's name and every argument's value."
)
_HEAD = re.compile(r'\s*\{\s*"function"\s*:\s*\{\s*"_name"\s*:\s*("(?:[^"\\]|\\.)*")\s*([,}])')


@dataclass(frozen=True)
class Call:
    name: str
    arguments: str
    """Compact JSON of the arguments' object."""


def offered(tools: Sequence[Tool] | None, choice: str | NamedChoice | None) -> tuple[Function, ...]:
    """The functions the model may call now; empty for a plain answer. Raises `ToolFailed`."""
    functions = tuple(tool.function for tool in tools or ())
    if choice == "none" or not functions:
        return ()
    if choice in (None, "auto"):
        return (*functions, _DECLINE)
    if choice == "required":
        return functions
    name = choice.function.name if isinstance(choice, NamedChoice) else choice
    named = tuple(function for function in functions if function.name == name)
    if not named:
        raise ToolError(f"Tool with name {name} not found")
    return named


def grammar(functions: Sequence[Function]) -> JsonGrammar:
    """One call of one of `functions`, the name first."""
    calls = [_call(function) for function in functions]
    definitions: JSON = {}
    for function in functions:
        definitions |= function.parameters.get("$defs", {})
    schema: JSON = {
        "type": "object",
        "properties": {"function": {"anyOf": calls}},
        "required": ["function"],
        "additionalProperties": False,
    }
    return JsonGrammar(
        type="json", value={**schema, "$defs": definitions} if definitions else schema
    )


def _call(function: Function) -> JSON:
    name = {"_name": {"type": "string", "const": function.name}}
    given = function.parameters
    return {
        "type": "object",
        "properties": {**name, **given.get("properties", {})},
        "required": ["_name", *given.get("required", [])],
        "additionalProperties": False,
    }


def described(functions: Sequence[Function], prompt: str | None) -> str:
    """The functions in words, for models whose chat template does not show them."""
    shown = json.dumps([_shown(function) for function in functions])
    return f"\n---\n{prompt or PROMPT}\n{shown}"


def _shown(function: Function) -> JSON:
    return function.model_dump(exclude_none=True)


def read(text: str) -> Call:
    """The call in a finished answer. Raises `ToolFailed`."""
    try:
        called: dict[str, Any] = json.loads(text)["function"]
        name = called.pop("_name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(f"Failed to parse generated text: {error!r}") from error
    return Call(str(name), json.dumps(called, separators=(",", ":"), ensure_ascii=False))


def looks_like_call(text: str) -> bool:
    return _HEAD.match(text) is not None


class CallStream:
    """A call as it is being written: its name once known, then pieces of its arguments."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._depth = 0
        self._quoted = self._escaped = False
        self.name: str | None = None

    def feed(self, text: str) -> str:
        """More of the answer; what it adds to the arguments' JSON."""
        self._text += text
        if self.name is not None:
            return self._inside()
        head = _HEAD.match(self._text)
        if head is None:
            return ""
        self.name, self._at = json.loads(head[1]), head.end()
        if head[2] == "}":
            return "{}"
        self._depth = 1
        return "{" + self._inside()

    def _inside(self) -> str:
        """The text up to the brace that closes the arguments."""
        start = self._at
        while self._at < len(self._text) and self._depth:
            self._count(self._text[self._at])
            self._at += 1
        return self._text[start : self._at]

    def _count(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._quoted and character == "\\":
            self._escaped = True
        elif character == '"':
            self._quoted = not self._quoted
        elif not self._quoted:
            self._depth += {"{": 1, "}": -1}.get(character, 0)
