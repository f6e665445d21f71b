"""The wait for a batch, which may take a day: what is said of it, and how often it is looked at."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from openai.types import Batch

from qcrd.errors import Transient
from qcrd.records.job import Job
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from qcrd.runtime.storage.store import Store
from services.api.assembling.batches.results import ENDED
from services.api.assembling.batches.shard import Shard, ShardStore
from services.api.assembling.teacher.openai.batches import BatchClient, make_batch_client
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

WAITS_FOR_BATCH = "waiting_for_batch"
POLL_SECONDS = (3.0, 300.0)
"""Least and most between two looks at a batch; between them a tenth of its age."""
ROOM_SECONDS = 60.0
"""Until the next try where the provider has no room for a batch."""


def make_waiting_error(label: str, out: Sequence[tuple[Shard, Batch]]) -> Transient:
    words = "; ".join(_describe(batch) for _, batch in out[:3])
    more = f"; and {len(out) - 3} more" if len(out) > 3 else ""
    newest = max(shard.sent_at for shard, _ in out)
    least, most = POLL_SECONDS
    delay = min(most, max(least, (time.time() - newest) / 10))
    return Transient(f"{label}: {words}{more}", code=WAITS_FOR_BATCH, retry_after=delay)


def make_lookup_error(label: str, seconds: float) -> Transient:
    return Transient(
        f"{label} did not answer when a batch was asked for: its list is looked up for it",
        code=WAITS_FOR_BATCH,
        retry_after=seconds,
    )


def make_room_error(label: str, told: str) -> Transient:
    return Transient(
        f"{label} has no room for a batch now: {told}",
        code=WAITS_FOR_BATCH,
        retry_after=ROOM_SECONDS,
    )


def _describe(batch: Batch) -> str:
    status = str(batch.status).replace("_", " ")
    counts = batch.request_counts
    if counts is None or not counts.total:
        return f"batch {batch.id} is {status}"
    done = counts.completed + counts.failed
    return f"batch {batch.id} is {status}, {done} of {counts.total} done"


async def check_still_out(
    job: Job, store: Store, buffer: GenerationBuffer, teacher: TeacherConfig
) -> None:
    """`Transient` when there is nothing to do for this job but to wait: all that it can ask is
    asked, and none of it has ended. That is found out without reading its outputs."""
    shards, names = ShardStore(store, job.id), TokenAccount(buffer, job).open_shards
    if not names or teacher.api != "openai" or shards.read_notes().asked_under != job.budget:
        return
    client = make_batch_client(job.spec.settings.teacher, teacher, log.info)
    try:
        await _check_each(client, shards, names)
    finally:
        await client.close()


async def _check_each(client: BatchClient, shards: ShardStore, names: Sequence[str]) -> None:
    out = list[tuple[Shard, Batch]]()
    for name in names:
        shard = shards.find_without_lines(name)
        if shard is None or shard.batch_id is None or shard.teacher != client.fingerprint:
            return
        batch = await client.retrieve(shard.batch_id)
        if batch is None or batch.status in ENDED:
            return
        out.append((shard, batch))
    raise make_waiting_error(client.label, out)
