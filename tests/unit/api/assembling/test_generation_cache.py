"""Paid answers are found wherever they are, also while another job moves them."""

from __future__ import annotations

from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.storage.store import MemoryStore
from services.api.assembling.generation_cache import Generation, GenerationCache


def generation(key: str) -> Generation:
    return Generation(
        key=key,
        index=0,
        text="it swims",
        finish_reason="stop",
        prompt_tokens=3,
        completion_tokens=2,
        job_id="ftjob-" + "0" * 24,
    )


class Moving(MemoryStore):
    """Its list is read just before another job seals, as it happens when two jobs share a set."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = MemoryGenerationBuffer()

    def other(self) -> GenerationCache:
        return GenerationCache(self, self.ledger, teacher="t", sampling="s")

    def list(self, prefix: str) -> list[str]:
        found = super().list(prefix)
        self.other().flush()
        return found


def test_an_answer_that_is_sealed_during_the_search_is_found() -> None:
    store = Moving()
    cache = store.other()
    cache.add([generation("a")])
    assert set(cache.find_many(["a"])) == {"a"}
    assert set(cache.find_many(["a"])) == {"a"}
