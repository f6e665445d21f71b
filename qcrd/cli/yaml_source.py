"""A YAML file as text, value and source: errors name the line, and the word that was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qcrd.errors import Invalid

TAG_PREFIX = "tag:yaml.org,2002:"
READ_AS = {
    "bool": "true or false",
    "int": "a number",
    "float": "a number",
    "timestamp": "a date",
    "null": "nothing",
}
"""What YAML makes of words without quotes, by its tag."""


@dataclass(frozen=True)
class YamlSource:
    """The file's value, and the nodes that it was read from."""

    value: Any
    root: yaml.Node | None

    def explain_type(self, param: str) -> str | None:
        """Why the value at dotted path `param` is no text, where YAML has read a word as something
        else; None where it has not."""
        node = _find_node(self.root, param.split("."))
        if not isinstance(node, yaml.ScalarNode) or node.style is not None:
            return None
        if (read_as := READ_AS.get(node.tag.removeprefix(TAG_PREFIX))) is None:
            return None
        if read_as == READ_AS["bool"]:
            read_as = str(yaml.safe_load(node.value)).lower()
        written = node.value or "an empty value"
        return (
            f"line {node.start_mark.line + 1}: YAML reads {written} as {read_as}: write "
            f"'{node.value}' in quotes"
        )


def read_yaml(path: Path) -> YamlSource:
    """`Invalid`, with the line, for a file that cannot be read, is no YAML, or has a key twice."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_keys_unique(path, root)
        return YamlSource(yaml.safe_load(text), root)
    except OSError as error:
        raise Invalid(f"SPEC: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"SPEC: {path} is not UTF-8 (byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise Invalid(f"SPEC: {path}{line}: {problem}") from error
    except (ValueError, RecursionError) as error:  # 2024-13-45, ten thousand brackets
        raise Invalid(f"SPEC: {path} cannot be read: {error}") from error


def _check_keys_unique(path: Path, root: yaml.Node | None) -> None:
    for mapping in _iter_mappings(root):
        first_lines: dict[tuple[str, str], int] = {}
        for key, _ in mapping.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in first_lines:
                raise Invalid(
                    f"SPEC: {path}, line {line}: key `{key.value}` is there twice, first in line "
                    f"{first_lines[name]}: remove one of the two",
                    param=key.value,
                    code="duplicate_key",
                )
            first_lines[name] = line


def _iter_mappings(root: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """Every mapping once, though aliases lead to it again."""
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            yield node
            stack += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value


def _find_node(node: yaml.Node | None, path: list[str]) -> yaml.Node | None:
    if not path:
        return node
    name, *rest = path
    if isinstance(node, yaml.SequenceNode):
        in_range = name.isdecimal() and int(name) < len(node.value)
        return _find_node(node.value[int(name)], rest) if in_range else None
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and name in (key.value, _format_key(key)):
                return key if rest == ["[key]"] else _find_node(value, rest)
    return None


def _format_key(key: yaml.ScalarNode) -> str:
    """The key as an error's path has it: `yes` is `1` there."""
    value = key.value if key.style is not None else yaml.safe_load(key.value)
    return str(int(value) if isinstance(value, bool) else value)
