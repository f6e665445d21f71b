"""A grammar in the words of an upstream's API; each has its own, and some have none.

| server | says in /v1/models | source |
|---|---|---|
| vLLM | `owned_by: vllm` | docs.vllm.ai, "Structured Outputs" (0.12: `structured_outputs`) |
| SGLang | `owned_by: sglang` | docs.sglang.io, "Structured Outputs" (`json_schema`, `regex`) |
| llama.cpp | `owned_by: llamacpp` | tools/server/README.md (`json_schema`, `grammar`); run here |
| others | | OpenAI's `response_format`, of chat alone |
"""

from __future__ import annotations

import json
from typing import Any, Literal

from services.teacher.engines import grammars
from services.teacher.engines.base import ANY_JSON_OBJECT, Grammar
from services.teacher.errors import InputValidationError

JSON = dict[str, Any]
Dialect = Literal["vllm", "sglang", "llamacpp", "openai"]
GRAMMAR_DIALECTS: frozenset[Dialect] = frozenset({"vllm", "sglang", "llamacpp"})
"""Of the servers that bind any output by a grammar."""

DEFAULT_SCHEMA_NAME = "answer"
"""OpenAI wants one."""


def find_dialect(identity: JSON) -> Dialect:
    """By who owns the models that an upstream lists."""
    owners = {each.get("owned_by") for each in identity.get("data") or () if isinstance(each, dict)}
    return next((dialect for dialect in sorted(GRAMMAR_DIALECTS) if dialect in owners), "openai")


def build_grammar_options(grammar: Grammar, dialect: Dialect, *, is_chat: bool) -> JSON:
    """The fields of a request's body. Raises `InputValidationError` where there are none."""
    if dialect == "vllm":
        return {"structured_outputs": {grammar.kind: _get_value(grammar)}}
    if grammar.kind == "regex":
        return _build_regex_options(grammar, dialect)
    if is_chat:
        return {"response_format": _build_response_format(grammar)}
    if dialect == "sglang":
        return {"json_schema": grammar.value}
    if dialect == "llamacpp":
        return {"json_schema": _get_value(grammar)}
    raise InputValidationError("grammar is not supported by this upstream's completions")


def _build_regex_options(grammar: Grammar, dialect: Dialect) -> JSON:
    if dialect == "sglang":
        return {"regex": grammar.value}
    if dialect == "llamacpp":
        # Where llguidance is built in; another llama.cpp refuses what it cannot read.
        return {"grammar": grammars.to_lark(grammar)}
    raise InputValidationError("grammar of type `regex` is not supported by this upstream")


def _build_response_format(grammar: Grammar) -> JSON:
    schema = _get_value(grammar)
    if schema == ANY_JSON_OBJECT:
        # Also of servers that know no schemas, such as DeepSeek's.
        return {"type": "json_object"}
    named: JSON = {"name": grammar.name or DEFAULT_SCHEMA_NAME, "schema": schema}
    if grammar.is_strict is not None:
        named["strict"] = grammar.is_strict
    return {"type": "json_schema", "json_schema": named}


def _get_value(grammar: Grammar) -> Any:
    return grammar.value if grammar.kind == "regex" else json.loads(grammar.value)
