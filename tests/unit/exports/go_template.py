"""The part of Go's text/template that a Modelfile uses: `range`, `if`, `eq`, variables, trimming.

Scopes as in Go: `:=` declares in the block, `=` assigns where it was declared.
"""

from __future__ import annotations

import json
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ACTION = re.compile(r"(\s*)\{\{(-\s)?((?:\"(?:\\.|[^\"\\])*\"|[^\"])*?)(\s-)?\}\}(\s*)")
WORD = re.compile(r"\"(?:\\.|[^\"\\])*\"|:=|=|[$.\w]+")


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """`template` of `.Messages`, whose fields are `.Role` and `.Content`."""
    data = {"Messages": [{"Role": m["role"], "Content": m["content"]} for m in messages]}
    return "".join(_run(iter(_parse(_split(template), ())[0]), data, ChainMap()))


def _split(template: str) -> Iterator[tuple[str, str]]:
    end = 0
    for found in ACTION.finditer(template):
        before, trims_before, action, trims_behind, behind = found.groups()
        yield "text", template[end : found.start()] + ("" if trims_before else before)
        yield "action", action.strip()
        end = found.end() if trims_behind else found.end() - len(behind)
    yield "text", template[end:]


def _parse(parts: Iterator[tuple[str, str]], ends: tuple[str, ...]) -> tuple[list[Any], str]:
    """The nodes up to one of `ends`, and that end."""
    nodes: list[Any] = []
    for kind, text in parts:
        if kind == "text":
            nodes.append(("text", text))
        elif text.split(" ")[0] in ends:
            return nodes, text
        elif text.startswith("range "):
            nodes.append(("range", text.removeprefix("range "), _parse(parts, ("end",))[0]))
        elif text.startswith("if "):
            nodes.append(_parse_if(parts, text))
        else:
            nodes.append(("action", text))
    assert not ends, f"no {ends} in the template"
    return nodes, ""


def _parse_if(parts: Iterator[tuple[str, str]], text: str) -> Any:
    then, end = _parse(parts, ("else", "end"))
    otherwise: list[Any] = []
    if end.startswith("else if "):
        otherwise = [_parse_if(parts, end.removeprefix("else "))]
    elif end == "else":
        otherwise = _parse(parts, ("end",))[0]
    return ("if", text.removeprefix("if "), then, otherwise)


def _run(nodes: Iterator[Any], dot: Any, scope: ChainMap[str, Any]) -> Iterator[str]:
    for kind, text, *blocks in nodes:
        if kind == "text":
            yield text
        elif kind == "range":
            for item in _value(WORD.findall(text), dot, scope):
                yield from _run(iter(blocks[0]), item, scope.new_child())
        elif kind == "if":
            chosen = blocks[0] if _value(WORD.findall(text), dot, scope) else blocks[1]
            yield from _run(iter(chosen), dot, scope.new_child())
        else:
            yield from _do(WORD.findall(text), dot, scope)


def _do(words: list[str], dot: Any, scope: ChainMap[str, Any]) -> Iterator[str]:
    if words[1:2] == [":="]:
        scope[words[0]] = _value(words[2:], dot, scope)
    elif words[1:2] == ["="]:
        owner = next(block for block in scope.maps if words[0] in block)
        owner[words[0]] = _value(words[2:], dot, scope)
    else:
        yield str(_value(words, dot, scope))


def _value(words: list[str], dot: Any, scope: ChainMap[str, Any]) -> Any:
    if words[0] == "eq":
        first, second = ([word] for word in words[1:])
        return _value(first, dot, scope) == _value(second, dot, scope)
    [word] = words
    if word.startswith('"'):
        return json.loads(word)
    if word.startswith("$"):
        return scope[word]
    return {"true": True, "false": False}[word] if word[0] != "." else dot[word[1:]]
