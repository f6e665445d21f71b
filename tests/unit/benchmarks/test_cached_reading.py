"""The peer of packed rows computes what they do, so that only its cost is compared."""

from __future__ import annotations

from benchmarks.step_cost.cached_reading import CachedCausalStudent
from tests import families, tiny


def test_the_peer_has_the_losses_and_the_gradient_of_plain_sequences() -> None:
    student = CachedCausalStudent(
        families.sharpen(tiny.llama().eval()),
        tiny.tokenizer(),
        max_question_tokens=32,
        max_target_tokens=16,
    )
    assert not families.find_difference(student)
