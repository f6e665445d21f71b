from __future__ import annotations

import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.errors import Invalid
from qcrd.runtime import keys


def test_new_ids_are_ids_and_all_different() -> None:
    made = {keys.new_id("ftjob") for _ in range(1000)}
    assert len(made) == 1000
    assert all(keys.validate_id(one, "id") == one for one in made)


@given(st.text(max_size=60))
def test_nothing_but_an_id_passes_as_one(value: str) -> None:
    prefix, _, rest = value.partition("-")
    looks_right = (
        len(rest) == 24
        and set(rest) <= set("0123456789abcdef")
        and prefix != ""
        and set(prefix) <= set("abcdefghijklmnopqrstuvwxyz")
    )
    if not looks_right:
        with pytest.raises(Invalid) as raised:
            keys.validate_id(value, "training_file")
        assert raised.value.param == "training_file"


@pytest.mark.parametrize("value", ["../../etc", "file-" + "0" * 24 + "\n", "file-" + "G" * 24])
def test_what_could_forge_a_key_is_no_id(value: str) -> None:
    with pytest.raises(Invalid):
        keys.validate_id(value, "id")


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_digests_keep_the_boundaries_of_their_parts(one: list[str], two: list[str]) -> None:
    assert (keys.digest(*one) == keys.digest(*two)) == (one == two)


def test_a_digest_is_stable_across_processes_and_versions() -> None:
    """SHA-256 of length (8 bytes, big endian) and content of each part, first 24 hex digits."""
    assert keys.digest("ab", b"c") == "601d5476e2ccfe2c87a2bba7"


def test_no_two_kinds_of_key_collide() -> None:
    made = []
    for name, function in inspect.getmembers(keys, inspect.isfunction):
        if name.endswith(("_key", "_prefix")):
            kinds = inspect.signature(function).parameters.values()
            made.append(
                function(*(1 if kind.annotation in ("int", "float") else "x" for kind in kinds))
            )
    assert len(made) == len(set(made))
    assert len(made) > 15
