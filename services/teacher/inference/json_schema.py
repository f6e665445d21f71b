"""JSON schemas made definite: what TGI's grammar reads into them, written out for every engine.

TGI's compiler (outlines) takes a schema with `properties` for an object and one with `items` for an
array, `type` or not, and writes no key that is not declared. Of JSON Schema itself both would be
open: any value but an object satisfies `properties`, and any further key an object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

COMBINATORS = ("allOf", "anyOf", "oneOf")
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions")
SCHEMA_VALUES = ("items", "additionalProperties", "additionalItems", "contains")
ARRAY_KEYS = ("items", "prefixItems")
OPENNESS_KEYS = ("additionalProperties", "unevaluatedProperties")


def complete_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` with the types that its keys imply, and with closed objects.

    Parts of a combination (`allOf`, or `anyOf` beside `properties`) stay open: each of them would
    forbid what the others declare.
    """
    shared = frozenset(_list_combined_references(schema))
    completed: dict[str, Any] = _Completion(schema, shared).complete(schema)
    return completed


class _Completion:
    def __init__(self, root: dict[str, Any], shared: frozenset[str]) -> None:
        self._open = [_resolve(root, reference) for reference in shared]

    def complete(self, node: Any, *, is_part: bool = False) -> Any:
        if not isinstance(node, dict):
            return node
        is_part = is_part or any(node is target for target in self._open)
        completed = {key: self._complete_value(node, key) for key in node}
        if "type" not in node and (implied := _get_implied_type(node)):
            completed = {"type": implied, **completed}
        if "properties" in node and not is_part and not _says_how_open(node):
            completed["additionalProperties"] = False
        return completed

    def _complete_value(self, node: dict[str, Any], key: str) -> Any:
        value = node[key]
        if key in SCHEMA_MAPS and isinstance(value, dict):
            return {name: self.complete(each) for name, each in value.items()}
        if key in SCHEMA_VALUES and isinstance(value, dict):
            return self.complete(value)
        if key in (*COMBINATORS, *ARRAY_KEYS) and isinstance(value, list):
            is_part = key in COMBINATORS and _is_combination(node)
            return [self.complete(each, is_part=is_part) for each in value]
        return value


def _get_implied_type(node: dict[str, Any]) -> str | None:
    """Of a schema that states no type; `enum`, `const` and `$ref` state the values themselves."""
    if "enum" in node or "const" in node or "$ref" in node:
        return None
    if "properties" in node:
        return "object"
    return "array" if any(key in node for key in ARRAY_KEYS) else None


def _says_how_open(node: dict[str, Any]) -> bool:
    """It says so itself, or it is combined with others, which may declare more keys."""
    return any(key in node for key in (*OPENNESS_KEYS, *COMBINATORS, "$ref"))


def _is_combination(node: dict[str, Any]) -> bool:
    """Whether the members of `node`'s combinators hold beside other schemas."""
    return "properties" in node or len(node.get("allOf") or ()) > 1


def _list_combined_references(node: Any) -> Iterator[str]:
    """The references whose targets are parts of a combination somewhere in the schema."""
    if isinstance(node, list):
        for each in node:
            yield from _list_combined_references(each)
    if not isinstance(node, dict):
        return
    if _is_combination(node):
        members = [member for key in COMBINATORS for member in node.get(key) or ()]
        for part in (node, *members):
            if isinstance(part, dict) and isinstance(part.get("$ref"), str):
                yield part["$ref"]
    for value in node.values():
        yield from _list_combined_references(value)


def _resolve(root: dict[str, Any], reference: str) -> Any:
    """The schema at a reference inside the document; None for any other."""
    node: Any = root
    for name in reference.removeprefix("#/").split("/"):
        node = (
            node.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
        )
    return node
