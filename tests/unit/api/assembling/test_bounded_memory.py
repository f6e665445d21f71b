"""What is held of a job's questions and outputs does not grow with them: counted, not weighed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from qcrd.method.answers import question_id
from qcrd.method.prompts import build_teacher_prompt
from qcrd.questions.rows import QuestionRow
from qcrd.records.job import Stage
from qcrd.records.rationales import Question, RationaleItem
from qcrd.records.specs.spec import MethodSpec
from qcrd.records.teachers.prompt import PromptForm, TeacherPrompt
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from qcrd.runtime.storage.store import MemoryStore
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.pending_requests import PendingRequests
from services.api.assembling.sampling_plan import PromptRequest, SampleRequest
from services.api.assembling.spill.database import SpillDatabase
from services.api.assembling.spill.questions import SpilledRows, Split
from services.api.assembling.spill.samples import SpilledSamples
from services.api.assembling.writing.set_writer import SHARD_SIZE
from tests.unit.api.assembling.assembling_bench import MakeBench
from tests.unit.api.assembling.test_stage import sums

SPEC = MethodSpec.model_validate({"task": {"answer": "number"}, "rationales": {"n": 4}})
FORM = PromptForm("completion")
JOB = "ftjob-" + "0" * 24


def count_alive(kind: type) -> int:
    return sum(type(each) is kind for each in gc.get_objects())


class Watching(MemoryStore):
    """How many items there are whenever something is written."""

    def __init__(self) -> None:
        super().__init__()
        self.most_items = 0

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        if key.startswith("rationales/"):
            self.most_items = max(self.most_items, count_alive(RationaleItem))
        super().put(key, data, length=length)


def test_of_a_sets_items_one_shard_is_held(bench: MakeBench) -> None:
    """Three shards of questions; beside the one that is written the last item before it."""
    here = bench()
    store = here.store = Watching()
    before = count_alive(RationaleItem)
    job = here.run(here.job(here.file(sums(2 * SHARD_SIZE + 1)), kind="finetune"))
    assert job.stage is Stage.TRAINING
    assert len(here.manifest(job).shards) == 3
    assert SHARD_SIZE <= store.most_items - before <= SHARD_SIZE + 1


def make_question(number: int) -> Question:
    text = f"What is {number} + 1?"
    return Question(id=question_id(text), text=text)


def make_generation(sample: SampleRequest) -> Generation:
    return Generation(
        key=sample.key,
        index=sample.index,
        text=f"sample {sample.index}",
        finish_reason="stop",
        prompt_tokens=3,
        completion_tokens=2,
        job_id=JOB,
    )


def test_of_outputs_that_are_found_few_are_held_and_all_are_there() -> None:
    """Two thousand in five shards: each is kept on disk before the next one is read."""
    cache = GenerationCache(MemoryStore(), MemoryGenerationBuffer(), teacher="t", sampling="s")
    for start in range(0, 500, 100):
        cache.add(
            make_generation(SampleRequest(prompt, index))
            for number in range(start, start + 100)
            for prompt in [build_teacher_prompt(SPEC.task, make_question(number), FORM, 128)]
            for index in range(4)
        )
        cache.flush()
    most = 0

    def watch(found: Iterator[Generation]) -> Iterator[Generation]:
        nonlocal most
        for number, one in enumerate(found):
            if number % 250 == 0:
                most = max(most, count_alive(Generation))
            yield one

    with SpillDatabase() as database:
        rows = (QuestionRow(number + 1, make_question(number)) for number in range(500))
        SpilledRows(database, Split.TRAINING).fill(rows)
        samples = SpilledSamples(database, SPEC, FORM, JOB)
        before = count_alive(Generation)
        samples.keep(watch(cache.find_each(samples)))
        assert (samples.found, len(samples)) == (2000, 2000)
        assert most - before <= 4
        assert next(samples.iter_missing(), None) is None


@pytest.mark.anyio
async def test_requests_are_made_when_they_are_worked_on() -> None:
    """Of a thousand, with three in work, one more waits."""
    made = finished = most_ahead = 0

    def make() -> Iterator[PromptRequest]:
        nonlocal made
        for number in range(1000):
            made += 1
            yield PromptRequest((SampleRequest(TeacherPrompt(str(number)), 0),))

    pending = PendingRequests(make())

    async def work() -> None:
        nonlocal finished, most_ahead
        while True:
            await pending.get(1)
            most_ahead = max(most_ahead, made - finished)
            await asyncio.sleep(0)
            finished += 1
            pending.mark_done()

    workers = [asyncio.ensure_future(work()) for _ in range(3)]
    await pending.wait_until_done()
    for worker in workers:
        worker.cancel()
    assert (made, finished) == (1000, 1000)
    assert most_ahead == 4
