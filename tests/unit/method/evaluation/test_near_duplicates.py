"""Near-duplicates against a comparison of all pairs."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from qcrd.method.evaluation.near_duplicates import flag_near_duplicates

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), max_size=9).map(" ".join), max_size=6)


def triples(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 3]) for i in range(max(1, len(words) - 2))}


@given(TEXTS, TEXTS, st.sampled_from([0.5, 0.8, 1.0]))
def test_it_finds_what_comparing_all_pairs_finds(
    training: list[str], test: list[str], similarity: float
) -> None:
    expected = [
        any(
            len(triples(a) & triples(b)) >= similarity * len(triples(a) | triples(b))
            for b in training
        )
        for a in test
    ]
    assert flag_near_duplicates(training, test, similarity) == expected


def test_too_many_of_one_pattern_are_not_compared() -> None:
    """Each of 40 shares its rarest triples with all of 40."""
    texts = [f"what kind of thing is a {name}" for name in "abcdefghij" * 4]
    assert flag_near_duplicates(texts, texts) == [True] * 40
    assert flag_near_duplicates(texts, texts, max_pairs=100) is None


def test_one_changed_word_in_many_is_near_and_another_question_is_not() -> None:
    story = "Ann went to the market on a cold day in May and bought nine red apples for her friend"
    near = story.replace("friend", "mother").upper()
    assert flag_near_duplicates([story], [near, "Bob went to the market on a cold day"]) == [
        True,
        False,
    ]
