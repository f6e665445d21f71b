from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcrd.method.packed_rationales import PackedRationales
from qcrd.method.training.training_example import TrainingExample
from qcrd.records.rationales import Rationale, RationaleSource

RATIONALES = st.builds(
    Rationale,
    id=st.text(),
    question_id=st.text(),
    text=st.text(),
    answer=st.none() | st.text(),
    source=st.sampled_from(RationaleSource),
    is_cut=st.booleans(),
    entropy=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(st.lists(RATIONALES, max_size=4))
def test_what_is_packed_is_what_comes_out(rationales: list[Rationale]) -> None:
    packed = PackedRationales(rationales)
    assert tuple(packed) == tuple(rationales)
    assert len(packed) == len(rationales)
    assert bool(packed) is bool(rationales)
    assert packed[:2] == tuple(rationales[:2])
    assert [packed[place] for place in range(len(packed))] == rationales
    assert packed == tuple(rationales)
    assert packed == PackedRationales(rationales)
    assert hash(packed) == hash(PackedRationales(rationales))


def test_one_that_is_not_there_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        PackedRationales(())[0]


def test_other_rationales_are_unequal() -> None:
    packed = PackedRationales([Rationale(id="r", question_id="q", text="Bees fly.")])
    assert packed != (Rationale(id="r", question_id="q", text="Bees sting."),)
    assert packed != ()
    example = TrainingExample("q", "A bee?", "animal", "animal", positives=packed)
    assert replace(example, label="insect").positives == packed
