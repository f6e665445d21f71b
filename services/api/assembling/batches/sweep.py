"""Batches of jobs that have ended: cancelled, and what was done by then is kept and counted.

A batch is in state `cancelling` for up to ten minutes, and its job, cancelled by a user, has no
worker and may be deleted. So its shards are what is looked for, not jobs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from openai.types import Batch

from qcrd.errors import NotFound, QcrdError
from qcrd.records.job import Job
from qcrd.runtime.jobs.state_machine import TERMINAL, with_changes
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.generation_buffer import GenerationBuffer
from qcrd.runtime.storage.store import Store
from qcrd.runtime.telemetry import log_exceptions
from services.api.assembling.batches.keeping import keep_results, split_generations
from services.api.assembling.batches.results import ENDED, ResultReader, ShardResults
from services.api.assembling.batches.shard import Shard, ShardStore, list_jobs_with_batches
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.teacher.openai.batches import BatchClient, make_batch_client
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.settings import TeacherConfig

log = logging.getLogger(__name__)

UNSENT_SECONDS = 900.0
"""After which a request for a batch is answered or given up; the client waits for 600."""
FORGET_SECONDS = 30 * 24 * 3600.0
"""After which nothing can be fetched from a teacher that is not configured any more: OpenAI keeps
files of batches for 30 days."""


@dataclass(frozen=True)
class BatchSweeper:
    jobs: JobStore
    store: Store
    buffer: GenerationBuffer
    teachers: Mapping[str, TeacherConfig]

    def sweep(self) -> None:
        """Look once at each shard of a job that has ended or is deleted."""
        for job_id in list_jobs_with_batches(self.store):
            with log_exceptions(f"the batches of job {job_id} stay as they are, for now"):
                self._sweep_job(job_id)

    def _sweep_job(self, job_id: str) -> None:
        job = self._find_job(job_id)
        if job is not None and job.status not in TERMINAL:
            return
        shards = ShardStore(self.store, job_id)
        for name in shards.list_names():
            if (shard := shards.find(name)) is not None:
                asyncio.run(self._sweep_shard(job, shard, shards))
            else:  # it was being written down, or its lines are gone
                _delete_when_old(shards, name, shards.find_without_lines(name), UNSENT_SECONDS)
        if not shards.list_names():
            shards.delete_notes()

    def _find_job(self, job_id: str) -> Job | None:
        try:
            return self.jobs.get(job_id)
        except NotFound:
            return None

    async def _sweep_shard(self, job: Job | None, shard: Shard, shards: ShardStore) -> None:
        account = None if job is None else TokenAccount(self.buffer, job)
        if account is not None and shard.name not in account.open_shards:
            # It was settled, or its worker does not know yet that the job has ended.
            _delete_when_old(shards, shard.name, shard, UNSENT_SECONDS)
            return
        teacher = self.teachers.get(shard.teacher_name)
        if teacher is None or teacher.api != "openai":
            _delete_when_old(shards, shard.name, shard, FORGET_SECONDS)
            return
        client = make_batch_client(shard.teacher_name, teacher, log.info)
        try:
            if client.fingerprint != shard.teacher:
                _delete_when_old(shards, shard.name, shard, FORGET_SECONDS)
                return
            keeper = _Keeper(self._open_cache(shard), account)
            if await _end_batch(client, shard, keeper):
                keeper.cache.flush()
                shards.delete(shard.name)
        finally:
            await client.close()
        if job is not None and account is not None:
            self._tell_usage(job, account, teacher)

    def _open_cache(self, shard: Shard) -> GenerationCache:
        return GenerationCache(
            self.store, self.buffer, teacher=shard.teacher, sampling=shard.sampling
        )

    def _tell_usage(self, job: Job, account: TokenAccount, teacher: TeacherConfig) -> None:
        def change(current: Job) -> Job:
            usage = account.fill_usage(current.usage, teacher)
            return current if usage == current.usage else with_changes(current, usage=usage)

        with suppress(NotFound):  # deleted meanwhile
            self.jobs.update(job.id, change)


def _delete_when_old(shards: ShardStore, name: str, shard: Shard | None, seconds: float) -> None:
    if shard is None or time.time() - shard.sent_at > seconds:
        shards.delete(name)


@dataclass(frozen=True)
class _Keeper:
    """`account` None: the job is deleted, and its account with it."""

    cache: GenerationCache
    account: TokenAccount | None

    def keep_all(self, shard: Shard, results: ShardResults) -> None:
        if self.account is None:
            for chunk in split_generations(results.generations):
                self.cache.add(chunk)
        else:
            keep_results(self.account, self.keep, shard, results)

    def keep(self, generations: Sequence[Generation]) -> None:
        assert self.account is not None
        if generations:
            self.account.flush(lambda update: self.cache.add(generations, update))
        else:
            self.account.flush()


async def _end_batch(client: BatchClient, shard: Shard, keeper: _Keeper) -> bool:
    """Whether it is over, and what came of it kept."""
    batch = await _find_batch(client, shard)
    if batch is None:
        if shard.batch_id is None and time.time() - shard.sent_at < UNSENT_SECONDS:
            return False  # it may be made yet
        lost = ShardResults() if shard.batch_id is None else ShardResults(uncertain=shard.reserved)
        keeper.keep_all(shard, lost)
        return True
    if batch.status not in ENDED:
        if batch.status != "cancelling":
            log.info("job %s has ended: batch %s is cancelled", shard.job_id, batch.id)
            await client.cancel(batch.id)
        return False
    results = await ResultReader(client, shard).read(batch)
    keeper.keep_all(shard, results)
    log.info("job %s has ended: %d outputs kept", shard.job_id, len(results.generations))
    with suppress(QcrdError):  # it is only in the way
        await client.delete_file(batch.input_file_id)
    return True


async def _find_batch(client: BatchClient, shard: Shard) -> Batch | None:
    if shard.batch_id is None:
        return await client.find(shard.name)
    return await client.retrieve(shard.batch_id)
