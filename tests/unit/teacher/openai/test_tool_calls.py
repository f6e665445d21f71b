"""Function calls: the grammar, the words, reading a call whole and in any pieces."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.teacher.errors import ToolError
from services.teacher.openai import tool_calls
from services.teacher.openai.requests import ChatRequest, Function, StreamOptions, normalize_body
from services.teacher.request_body import parse_body

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "at": {"$ref": "#/$defs/hour"}},
            "required": ["city"],
            "$defs": {"hour": {"type": "integer"}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "time"}}


def request(**more: Any) -> ChatRequest:
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [WEATHER, TIME], **more}
    return parse_body(ChatRequest, json.dumps(body).encode(), normalize_body)


def names(**more: Any) -> list[str]:
    asked = request(**more)
    return [
        function.name for function in tool_calls.select_functions(asked.tools, asked.tool_choice)
    ]


def test_a_choice_offers_what_it_names() -> None:
    assert names() == names(tool_choice="auto") == ["weather", "time", "no_tool"]
    assert names(tool_choice="none") == names(tools=[]) == []
    assert names(tool_choice="required") == ["weather", "time"]
    assert names(tool_choice="time") == ["time"]
    assert names(tool_choice={"type": "function", "function": {"name": "weather"}}) == ["weather"]
    with pytest.raises(ToolError, match="Tool with name rain not found"):
        names(tool_choice="rain")


def test_the_grammar_puts_the_name_first_and_keeps_references_whole() -> None:
    asked = request(tool_choice="required")
    value = tool_calls.build_tool_grammar(
        tool_calls.select_functions(asked.tools, asked.tool_choice)
    ).value
    assert isinstance(value, dict)
    weather, time = value["properties"]["function"]["anyOf"]
    assert list(weather["properties"]) == ["_name", "city", "at"]
    assert weather["required"] == ["_name", "city"]
    assert time["properties"] == {"_name": {"type": "string", "const": "time"}}
    assert value["$defs"] == {"hour": {"type": "integer"}}


def test_a_call_is_read_and_anything_else_is_named() -> None:
    text = '{"function": {"_name": "weather", "city": "Ulm", "at": 3}}'
    assert tool_calls.parse_call(text) == tool_calls.FunctionCall(
        "weather", '{"city":"Ulm","at":3}'
    )
    for broken in ('{"function": {"_name": "wea', "[]", '{"function": 1}', "word"):
        with pytest.raises(ToolError, match="Failed to parse generated text"):
            tool_calls.parse_call(broken)


ARGUMENTS = st.dictionaries(
    st.text(min_size=1).filter(lambda key: key != "_name"),
    st.recursive(st.text() | st.integers() | st.booleans(), lambda inner: st.lists(inner)),
)


@given(arguments=ARGUMENTS, seed=st.randoms(use_true_random=False), ascii=st.booleans())
def test_pieces_join_to_the_arguments(arguments: dict[str, Any], seed: Any, ascii: bool) -> None:
    call = {"function": {"_name": "weather", **arguments}}
    text = json.dumps(call, ensure_ascii=ascii)
    stream, got = tool_calls.FunctionCallParser(), ""
    while text:
        size = seed.randint(1, 9)
        got += stream.feed(text[:size])
        text = text[size:]
    assert stream.name == "weather"
    assert json.loads(got) == arguments


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"stop": "x"}, "stop", ("x",)),
        ({"top_p": 1.0}, "top_p", None),
        ({"logit_bias": {"5": 1}}, "logit_bias", None),
        ({"stream_options": None}, "stream_options", StreamOptions()),
        ({"max_tokens": 3, "max_completion_tokens": 5}, "max_new_tokens", 5),
        ({"max_completion_tokens": 5}, "max_new_tokens", 5),
        ({"response_format": {"type": "text"}}, "response_format", None),
    ],
)
def test_openais_own_forms(given: dict[str, Any], name: str, expected: Any) -> None:
    assert getattr(request(**given), name) == expected


def test_openais_response_formats() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    given = request(response_format=asked).response_format
    assert given is not None
    assert given.value.definition == schema
    bare = request(response_format={"type": "json_object"}).response_format
    assert bare is not None
    assert "properties" in bare.value
    told = request(response_format={"type": "json_object", "schema": schema}).response_format
    assert told is not None
    assert told.value == schema


def test_a_call_has_further_arguments_only_where_its_function_says_so() -> None:
    def closed(**more: Any) -> Any:
        function = Function(name="f", parameters={"type": "object", "properties": {}, **more})
        grammar = tool_calls.build_tool_grammar([function]).value
        assert isinstance(grammar, dict)
        return grammar["properties"]["function"]["anyOf"][0]["additionalProperties"]

    assert closed() is False
    assert closed(additionalProperties={"type": "integer"}) == {"type": "integer"}
