"""Grammars in llguidance's language, which the local engine and llama.cpp both run."""

from __future__ import annotations

import json

import llguidance

from services.teacher.engines.base import Grammar
from services.teacher.errors import InputValidationError

# Small models like to fill a JSON answer with blank lines until it is cut off.
COMPACT = {"whitespace_flexible": False}


def lark(grammar: Grammar) -> str:
    """The whole grammar as llguidance's dialect of Lark."""
    if grammar.kind == "regex":
        return f"%llguidance {{}}\nstart: /{_escaped(grammar.value)}/"
    schema = {**json.loads(grammar.value), "x-guidance": COMPACT}
    return f"%llguidance {{}}\nstart: %json {json.dumps(schema)}"


def _escaped(pattern: str) -> str:
    """`pattern` between slashes on one line: slashes that are not escaped yet, and line ends."""
    shown, escaped = [], False
    for character in pattern:
        if character == "/" and not escaped:
            shown.append("\\/")
        else:
            shown.append({"\n": "\\n", "\r": "\\r"}.get(character, character))
        escaped = character == "\\" and not escaped
    return "".join(shown)


def check(grammar: Grammar) -> None:
    """Raises `Refused` in TGI's words when `grammar` does not compile."""
    wrong = llguidance.LLMatcher.validate_grammar(lark(grammar))
    if not wrong:
        return
    reason = wrong.strip().splitlines()[0]
    if grammar.kind == "json":
        raise InputValidationError(f"cannot compile regex from schema: {reason}")
    raise InputValidationError(f"grammar is not valid: {reason}")
