"""A rank that is not the main one: it reads the job and the store, and writes its shards alone."""

from __future__ import annotations

from dataclasses import replace
from typing import BinaryIO

from qcrd.records.job import Job
from qcrd.runtime import keys
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.counters import MemoryCounters
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.redis.webhook_queue import MemoryWebhookQueue
from qcrd.runtime.storage.store import Store, StoreReads


def make_follower_deps(deps: WorkerDeps, job: Job) -> WorkerDeps:
    """`deps` with which a rank runs the whole stage, and changes nothing that the main one does."""
    jobs = MemoryJobStore()
    jobs.create(job)
    return replace(
        deps,
        jobs=jobs,
        events=MemoryEventLog(),
        store=FollowerStore(deps.store, job.id),
        counters=MemoryCounters(),
        webhook_queue=MemoryWebhookQueue(),
    )


class FollowerStore(StoreReads):
    """`store` for reading; of what is written, only blobs of the job's checkpoints go there. All
    else is the main rank's, which writes the same."""

    def __init__(self, store: Store, job_id: str) -> None:
        super().__init__(store)
        self._prefix = keys.checkpoint_prefix(job_id)

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        if key.startswith(self._prefix) and "/blobs/" in key:
            self._store.put(key, data, length=length)

    def delete(self, key: str) -> None:
        """The main rank deletes."""
