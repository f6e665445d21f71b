"""What a schema leaves unsaid, and what TGI's grammar reads into it."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from services.teacher.engines.base import Grammar
from services.teacher.engines.grammars import to_lark
from services.teacher.inference.json_schema import complete_schema
from services.teacher.inference.validation import parse_grammar
from services.teacher.inference.wire import JsonGrammar

A, B = {"a": {"type": "integer"}}, {"b": {"type": "integer"}}
CLOSED_A = {"type": "object", "properties": A, "additionalProperties": False}
CLOSED_B = {"type": "object", "properties": B, "additionalProperties": False}
OPEN_A, OPEN_B = {"type": "object", "properties": A}, {"type": "object", "properties": B}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": A}, CLOSED_A),
        (OPEN_A, CLOSED_A),
        ({"items": {"properties": A}}, {"type": "array", "items": CLOSED_A}),
        ({"prefixItems": [OPEN_A]}, {"type": "array", "prefixItems": [CLOSED_A]}),
        ({"anyOf": [OPEN_A, OPEN_B]}, {"anyOf": [CLOSED_A, CLOSED_B]}),
        ({"allOf": [OPEN_A]}, {"allOf": [CLOSED_A]}),
        ({"$defs": {"x": OPEN_A}}, {"$defs": {"x": CLOSED_A}}),
        (
            {"properties": A, "additionalProperties": {"properties": B}},
            {"type": "object", "properties": A, "additionalProperties": CLOSED_B},
        ),
    ],
)
def test_types_are_implied_and_objects_closed(
    schema: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert complete_schema(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {**OPEN_A, "additionalProperties": True},
        {**OPEN_A, "additionalProperties": {"type": "string"}},
        {"allOf": [OPEN_A, OPEN_B]},
        {"$defs": {"x": OPEN_A}, "allOf": [{"$ref": "#/$defs/x"}, OPEN_B]},
        {**OPEN_A, "anyOf": [OPEN_B, {"required": ["a"]}]},
        {"enum": [{"properties": 1}]},
        {"type": "string"},
    ],
)
def test_what_is_said_stands_and_parts_of_a_combination_stay_open(schema: dict[str, Any]) -> None:
    assert complete_schema(schema) == schema


def test_a_key_that_is_called_like_a_keyword_is_only_a_key() -> None:
    schema = {"properties": {"properties": {"type": "string"}, "items": {"enum": [1]}}}
    completed = complete_schema(schema)
    assert completed["properties"] == schema["properties"]


@pytest.mark.parametrize("schema", [{"properties": A}, {"properties": {}, "allOf": [OPEN_A]}])
def test_what_comes_out_compiles(schema: dict[str, Any]) -> None:
    grammar = parse_grammar(JsonGrammar(type="json", value=json.dumps(schema)))
    assert grammar == Grammar("json", json.dumps(complete_schema(schema)))
    assert not llguidance.LLMatcher.validate_grammar(to_lark(grammar))
