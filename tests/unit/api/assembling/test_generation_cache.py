"""Paid answers are found wherever they are, also while another job moves them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest
import zstandard

from qcrd.method.prompts import build_teacher_prompt
from qcrd.questions.rows import QuestionRow
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.teachers.prompt import PromptForm
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.storage.json_lines import read_raw_lines, write_lines
from qcrd.runtime.storage.store import MemoryStore, read_object
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.generation_index import MERGED
from services.api.assembling.sampling_plan import SampleRequest
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.questions import SpilledRows, Split
from services.api.assembling.spill.samples import SpilledSamples


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
    spec = MethodSpec.model_validate({"task": {"answer": "number"}, "rationales": {"n": 2}})
    question = Question(id="0" * 24, text="two and two")
    own_id, other_id = ("ftjob-" + digit * 24 for digit in "01")
    held, free = (
        build_teacher_prompt(spec.task, question, PromptForm("completion", structure), 128)
        for structure in ("grammar", "none")
    )
    own, others = SampleRequest(free, 0), SampleRequest(free, 1)
    foreign = generation(others.key).model_copy(update={"job_id": other_id})
    cache.add([generation(own.key), foreign])
    with SpillDatabase() as database:
        SpilledRows(database, Split.TRAINING).fill([QuestionRow(1, question)])
        form = PromptForm("completion", "grammar")
        samples = SpilledSamples(database, spec, form, own_id)
        samples.keep(cache.find_each(samples))
        assert (samples.found, len(samples)) == (1, 2)
        missing = list(samples.iter_missing())
    assert [each.index for each in missing] == [1]
    assert own.key == SampleRequest(held, 0).free_key != SampleRequest(held, 0).key


class Counting(MemoryStore):
    """What is read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []

    @contextmanager
    def open(self, key: str) -> Iterator[BinaryIO]:
        self.opened.append(key)
        with super().open(key) as body:
            yield body


def make_cache(store: MemoryStore) -> GenerationCache:
    return GenerationCache(store, MemoryGenerationBuffer(), teacher="t", sampling="s")


def test_a_job_reads_the_shards_that_it_wants_alone() -> None:
    """Of 1,100 shards: they are indexed, and their indexes merged twice over."""
    store = Counting()
    cache = make_cache(store)
    for number in range(1100):
        cache.add([generation(f"a{number}"), generation(f"b{number}")])
        cache.flush()
    store.opened.clear()
    found = cache.find_many(["a7", "b7", "b999", "absent"])
    assert set(found) == {"a7", "b7", "b999"}
    shards = [key for key in store.opened if "/shard-" in key]
    assert len(shards) == 2
    assert len(store.opened) - len(shards) < 2 * MERGED
    store.opened.clear()
    assert cache.find_many(["absent"]) == {}
    assert not any("/shard-" in key for key in store.opened)


def test_shards_of_an_earlier_release_are_indexed_when_they_are_first_read() -> None:
    store = Counting()
    for number in range(3):
        key = keys.generation_shard_key("t", "s", str(number))
        write_lines(store, key, [generation(f"a{number}")])
    cache = make_cache(store)
    assert set(cache.find_many(["a1"])) == {"a1"}
    store.opened.clear()
    assert set(cache.find_many(["a2"])) == {"a2"}
    assert len([key for key in store.opened if "/shard-" in key]) == 1


def test_a_shard_that_was_removed_is_as_none() -> None:
    store = Counting()
    cache = make_cache(store)
    cache.add([generation("a")])
    cache.flush()
    cache.mark_used("ftjob-" + "0" * 24)
    assert [key for key in store.list("") if key.startswith("generation-uses/t/s/ftjob-")]
    [shard] = store.list(keys.generation_prefix("t", "s"))
    store.delete(shard)
    assert cache.find_many(["a"]) == {}


def test_what_could_not_be_read_whole_is_looked_for_again() -> None:
    """A store that says for a moment that a shard is not there, and a line of another release."""
    store = Counting()
    lagging, foreign = (keys.generation_shard_key("t", "s", name) for name in ("lag", "foreign"))
    write_lines(store, lagging, [generation("a")])
    hidden = store.list("")
    [content] = [read_object(store, key) for key in hidden]
    store.delete(lagging)

    class Lagging(Counting):
        def list(self, prefix: str, *, after: str = "", limit: int | None = None) -> list[str]:
            found = super().list(prefix, after=after, limit=limit)
            return [*found, lagging] if lagging.startswith(prefix) and not found else found

    late = Lagging()
    assert make_cache(late).find_many(["a"]) == {}
    late.put(lagging, content)
    assert set(make_cache(late).find_many(["a"])) == {"a"}
    newer = Counting()
    line = generation("b").model_dump_json().replace('"index":0', '"index":"of another kind"')
    newer.put(foreign, zstandard.compress(f"{line}\n".encode()))
    assert make_cache(newer).find_many(["b"]) == {}
    newer.put(foreign, zstandard.compress(f"{generation('b').model_dump_json()}\n".encode()))
    assert set(make_cache(newer).find_many(["b"])) == {"b"}, "it was not indexed without it"


def test_a_paid_answer_that_this_release_cannot_read_is_kept_for_the_one_that_wrote_it() -> None:
    store, buffer = MemoryStore(), MemoryGenerationBuffer()
    cache = GenerationCache(store, buffer, teacher="t", sampling="s")
    later = json.loads(generation("b").model_dump_json())
    unread = {
        "b": json.dumps({**later, "text": {"parts": ["it swims"]}}),
        "c": json.dumps({**later, "key": "c", "schema_version": "2.0"}),
    }
    buffer.add("t/s", {"a": generation("a").model_dump_json(), **unread})
    cache.flush()
    assert buffer.read_all("t/s") == unread
    assert cache.find_many(["a", "b", "c"]) == {"a": generation("a")}
    assert {"generation b", "generation c"} <= store.unreadable.reasons().keys()


@pytest.mark.parametrize("is_indexed", [True, False])
@pytest.mark.parametrize("damage", [b"\xff" * 40, b""], ids=["garbage", "cut off"])
def test_a_damaged_shard_costs_what_was_in_it_and_nothing_else(
    is_indexed: bool, damage: bytes
) -> None:
    store = MemoryStore()
    cache = GenerationCache(store, MemoryGenerationBuffer(), teacher="t", sampling="s")
    for key in "ab":
        cache.add([generation(key)])
        cache.flush()
    shards = store.list(keys.generation_prefix("t", "s"))
    damaged = next(shard for shard in shards if b"a" in keys_in(store, shard))
    store.put(damaged, read_object(store, damaged)[:9] + damage)
    if not is_indexed:
        for name in store.list(archive_keys.generation_index_prefix("t", "s")):
            store.delete(name)
    for _ in range(2):
        assert cache.find_many(["a", "b"]) == {"b": generation("b")}
        assert "is damaged" in store.unreadable.reasons()[damaged]


def keys_in(store: MemoryStore, shard: str) -> set[bytes]:
    return {json.loads(line)["key"].encode() for line in read_raw_lines(store, shard)}
