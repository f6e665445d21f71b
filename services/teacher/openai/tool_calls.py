"""Function calls: the grammar that forces one, and its parsing, whole or streamed.

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
from services.teacher.openai.requests import Function, NamedToolChoice, Tool

NO_TOOL = "no_tool"
_NO_TOOL_FUNCTION = Function(
    name=NO_TOOL,
    description="Answer in words; none of the functions helps here.",
    parameters={
        "type": "object",
        "properties": {"content": {"type": "string"}},
        "required": ["content"],
    },
)
DEFAULT_TOOL_PROMPT = (
    "These functions can be called. Choose the one that answers the request best and write the "
    "call as JSON, with the function's name and every argument's value."
)
_CALL_START = re.compile(
    r'\s*\{\s*"function"\s*:\s*\{\s*"_name"\s*:\s*("(?:[^"\\]|\\.)*")\s*([,}])'
)


@dataclass(frozen=True)
class FunctionCall:
    name: str
    arguments: str
    """Compact JSON of the arguments' object."""


def select_functions(
    tools: Sequence[Tool] | None, choice: str | NamedToolChoice | None
) -> tuple[Function, ...]:
    """The functions the model may call now; empty for a plain text. Raises `ToolError`."""
    functions = tuple(tool.function for tool in tools or ())
    if choice == "none" or not functions:
        return ()
    if choice in (None, "auto"):
        return (*functions, _NO_TOOL_FUNCTION)
    if choice == "required":
        return functions
    name = choice.function.name if isinstance(choice, NamedToolChoice) else choice
    matching = tuple(function for function in functions if function.name == name)
    if not matching:
        raise ToolError(f"Tool with name {name} not found")
    return matching


def build_tool_grammar(functions: Sequence[Function]) -> JsonGrammar:
    """One call of one of `functions`, the name first."""
    call_schemas = [_build_call_schema(function) for function in functions]
    definitions: JSON = {}
    for function in functions:
        definitions |= function.parameters.get("$defs", {})
    schema: JSON = {
        "type": "object",
        "properties": {"function": {"anyOf": call_schemas}},
        "required": ["function"],
        "additionalProperties": False,
    }
    return JsonGrammar(
        type="json", value={**schema, "$defs": definitions} if definitions else schema
    )


def _build_call_schema(function: Function) -> JSON:
    name = {"_name": {"type": "string", "const": function.name}}
    parameters = function.parameters
    return {
        "type": "object",
        "properties": {**name, **parameters.get("properties", {})},
        "required": ["_name", *parameters.get("required", [])],
        "additionalProperties": parameters.get("additionalProperties", False),
    }


def describe_functions(functions: Sequence[Function], prompt: str | None) -> str:
    """A description of the functions, for models whose chat template does not show them."""
    functions_json = json.dumps([_dump_function(function) for function in functions])
    return f"\n---\n{prompt or DEFAULT_TOOL_PROMPT}\n{functions_json}"


def _dump_function(function: Function) -> JSON:
    return function.model_dump(exclude_none=True)


def parse_call(text: str) -> FunctionCall:
    """The call in a finished output. Raises `ToolError`."""
    try:
        arguments: dict[str, Any] = json.loads(text)["function"]
        name = arguments.pop("_name")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ToolError(f"Failed to parse generated text: {error!r}") from error
    return FunctionCall(str(name), json.dumps(arguments, separators=(",", ":"), ensure_ascii=False))


def is_call(text: str) -> bool:
    return _CALL_START.match(text) is not None


class FunctionCallParser:
    """A call as it is being written: its name once known, then pieces of its arguments."""

    def __init__(self) -> None:
        self._text = ""
        self._position = 0
        self._depth = 0
        self._in_string = self._escaped = False
        self.name: str | None = None

    def feed(self, text: str) -> str:
        """Add more of the output; returns what it adds to the arguments' JSON."""
        self._text += text
        if self.name is not None:
            return self._read_arguments()
        match = _CALL_START.match(self._text)
        if match is None:
            return ""
        self.name, self._position = json.loads(match[1]), match.end()
        if match[2] == "}":
            return "{}"
        self._depth = 1
        return "{" + self._read_arguments()

    def _read_arguments(self) -> str:
        """The text up to the brace that closes the arguments."""
        start = self._position
        while self._position < len(self._text) and self._depth:
            self._track_depth(self._text[self._position])
            self._position += 1
        return self._text[start : self._position]

    def _track_depth(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string and character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = not self._in_string
        elif not self._in_string:
            self._depth += {"{": 1, "}": -1}.get(character, 0)
