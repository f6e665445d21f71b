"""The check of names that are defined twice, on sources that have some."""

from __future__ import annotations

import pytest

from tests.duplicate_definitions import find_duplicates


@pytest.mark.parametrize(
    ("source", "duplicates"),
    [
        ("A = 1\nB = 2\nA = 1\n", [(3, "A")]),
        ("A: int = 1\nA = 2\n", [(2, "A")]),
        ("def f(): ...\nclass f: ...\n", [(2, "f")]),
        ("class C:\n    x = 1\n    x = 2\n", [(3, "x")]),
        ("try:\n    A = 1\nexcept E:\n    A = 2\n", []),
        ("@overload\ndef f(): ...\n@overload\ndef f(): ...\ndef f(): ...\n", []),
        ("def f():\n    x = 1\n    x = 2\n", []),
    ],
)
def test_second_definitions_are_found(source: str, duplicates: list[tuple[int, str]]) -> None:
    assert list(find_duplicates(source)) == duplicates
