"""The mark between solutions and their answers."""

from __future__ import annotations

import pytest

from qcrd.cli.init.marks import find_mark


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("Two and two.\n#### 4", "####"),
        ("Two and two.\n#### 4\nThe answer is: 4", "The answer is:"),
        ("So the answer is 4.", "the answer is"),
        ("4", None),
        ("#### 4", None),
        ("Answer: I would say that\nit is long", None),
    ],
)
def test_a_mark_stands_behind_a_solution_and_before_a_short_answer(
    text: str, mark: str | None
) -> None:
    assert find_mark([text, None, text]) == mark


def test_a_mark_is_one_of_nearly_all_texts() -> None:
    assert find_mark(["It is so. #### 4"] * 9 + ["It is so."]) is None
    assert find_mark([]) is None
