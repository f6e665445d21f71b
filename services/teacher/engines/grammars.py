"""Grammars in llguidance's language, which the local engine and llama.cpp both run."""

from __future__ import annotations

import json

import llguidance

from services.teacher.engines.base import Grammar
from services.teacher.errors import InputValidationError

# Small models tend to fill a JSON output with blank lines until it is cut off.
JSON_OPTIONS = {"whitespace_flexible": False}


def to_lark(grammar: Grammar) -> str:
    """The whole grammar as llguidance's dialect of Lark."""
    if grammar.kind == "regex":
        return f"%llguidance {{}}\nstart: /{_escape_regex(grammar.value)}/"
    schema = {**json.loads(grammar.value), "x-guidance": JSON_OPTIONS}
    return f"%llguidance {{}}\nstart: %json {json.dumps(schema)}"


def _escape_regex(pattern: str) -> str:
    """`pattern` between slashes on one line: slashes that are not escaped yet, and line ends."""
    parts, escaped = [], False
    for character in pattern:
        if character == "/" and not escaped:
            parts.append("\\/")
        else:
            parts.append({"\n": "\\n", "\r": "\\r"}.get(character, character))
        escaped = character == "\\" and not escaped
    return "".join(parts)


def check_grammar(grammar: Grammar) -> None:
    """Raises `InputValidationError` in TGI's words when `grammar` does not compile."""
    error = llguidance.LLMatcher.validate_grammar(to_lark(grammar))
    if not error:
        return
    reason = error.strip().splitlines()[0]
    if grammar.kind == "json":
        raise InputValidationError(f"cannot compile regex from schema: {reason}")
    raise InputValidationError(f"grammar is not valid: {reason}")
