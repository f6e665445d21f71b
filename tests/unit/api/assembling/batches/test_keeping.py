"""What came of a batch is kept whole and spent once, whenever the write of it breaks off."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from qcrd.errors import Transient
from qcrd.records.job import Usage
from qcrd.runtime.redis.generation_buffer import MemoryGenerationBuffer
from services.api.assembling.batches.keeping import CHUNK, keep_results
from services.api.assembling.batches.results import ShardResults
from services.api.assembling.batches.shard import SampleRef, Shard, ShardLine
from services.api.assembling.generation_cache import Generation
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_sums import Tokens
from services.api.settings import TeacherConfig
from tests.unit.api.assembling.assembling_bench import a_job

COUNT = 2 * CHUNK + 1
JOB = a_job(lease=1)
SPENT = Tokens(COUNT, 2 * COUNT).by_batch()


def make_shard() -> Shard:
    lines = (
        ShardLine(
            samples=(SampleRef(key=f"key-{number}", index=0),),
            prompt_tokens=2,
            prompt_bytes=6,
            max_new_tokens=4,
        )
        for number in range(COUNT)
    )
    return Shard(
        name="shard-0",
        job_id=JOB.id,
        teacher_name="t",
        teacher="teacher",
        sampling="sampling",
        lines=tuple(lines),
        sent_at=0.0,
    )


def make_results() -> ShardResults:
    generations = [
        Generation(
            key=f"key-{number}",
            index=0,
            text="x",
            finish_reason="stop",
            prompt_tokens=1,
            completion_tokens=2,
            job_id=JOB.id,
        )
        for number in range(COUNT)
    ]
    return ShardResults(generations=generations, spent=SPENT)


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_break_between_two_writes_changes_nothing_in_the_end(writes: int) -> None:
    """Until the last one is made all of it is reserved."""
    buffer, shard = MemoryGenerationBuffer(), make_shard()
    first = TokenAccount.open(buffer, JOB, Usage(), TeacherConfig(url="http://t"))
    first.reserve_shard(shard.name, shard.reserved)
    first.flush()
    left = [writes]

    def keep_some(generations: Sequence[Generation]) -> None:
        if not left[0]:
            raise Transient("away")
        left[0] -= 1
        keep(first, generations)

    def keep(account: TokenAccount, generations: Sequence[Generation]) -> None:
        payloads = {each.key: each.model_dump_json() for each in generations}
        account.flush(lambda update: buffer.add("set", payloads, update))

    with pytest.raises(Transient):
        keep_results(first, keep_some, shard, make_results())
    assert len(buffer.read_all("set")) == writes * CHUNK
    second = TokenAccount(buffer, a_job(lease=2))
    assert (second.spent.total, second.reserved) == (0, shard.reserved)
    keep_results(second, lambda some: keep(second, some), shard, make_results())
    assert len(buffer.read_all("set")) == COUNT
    third = TokenAccount(buffer, a_job(lease=3))
    assert (third.spent, third.reserved.total, third.uncertain.total) == (SPENT, 0, 0)
