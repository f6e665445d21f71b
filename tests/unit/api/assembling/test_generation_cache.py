"""Paid answers are found wherever they are, also while another job moves them."""

from __future__ import annotations

from qcrd.records.teachers.prompt import TeacherPrompt
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.storage.store import MemoryStore
from services.api.assembling.generation_cache import Generation, GenerationCache, find_existing
from services.api.assembling.sampling_plan import SampleRequest


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

    def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
        found = super().list(prefix, after=after, limit=limit)
        self.other().flush()
        return found


def test_an_answer_that_is_sealed_during_the_search_is_found() -> None:
    store = Moving()
    cache = store.other()
    cache.add([generation("a")])
    assert set(cache.find_many(["a"])) == {"a"}
    assert set(cache.find_many(["a"])) == {"a"}


def test_a_job_that_began_before_there_were_grammars_keeps_what_it_paid_for() -> None:
    """Only what it paid for itself: to others these are outputs of another form."""
    cache = GenerationCache(MemoryStore(), MemoryGenerationBuffer(), teacher="t", sampling="s")
    free, held = TeacherPrompt("two and two"), TeacherPrompt("two and two", grammar="four")
    own, others = SampleRequest(free, 0), SampleRequest(free, 1)
    foreign = generation(others.key).model_copy(update={"job_id": "ftjob-" + "1" * 24})
    cache.add([generation(own.key), foreign])
    requests = {each.key: each for each in (SampleRequest(held, 0), SampleRequest(held, 1))}
    found = find_existing(cache, "ftjob-" + "0" * 24, requests)
    assert set(found) == {SampleRequest(held, 0).key}
    other_text = TeacherPrompt("two and three", grammar="four")
    assert SampleRequest(other_text, 0).free_key != own.key
