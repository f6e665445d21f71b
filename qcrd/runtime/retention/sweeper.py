"""A pass of the sweeper: what is no longer needed leaves Redis and the object store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from redis import Redis

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.archive.job_history import JobHistory
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.event_log import RedisEventLog
from qcrd.runtime.redis.event_trimming import RedisEventTrimmer
from qcrd.runtime.redis.generation_buffer import RedisGenerationBuffer
from qcrd.runtime.retention.eviction import Evictor
from qcrd.runtime.retention.removal import Removal, describe_age
from qcrd.runtime.retention.rules import iter_removals
from qcrd.runtime.settings import RetentionSettings
from qcrd.runtime.storage.inventory import InventoriedStore
from qcrd.runtime.storage.published_models import index_published_models


@dataclass(frozen=True)
class Sweeper:
    """Any number may sweep at once: what one of them removes is gone for the others."""

    evictor: Evictor
    store: InventoriedStore
    settings: RetentionSettings

    def sweep_redis(self, now: float, *, dry_run: bool = False) -> Iterator[Removal]:
        """Ended jobs to their archive. With `dry_run` nothing is moved."""
        seconds = self.settings.ended_hours * 3600
        for job in self.evictor.iter_due(now, seconds):
            try:
                if not dry_run and not self.evictor.evict(job):
                    continue
            except (NotFound, UnreadableRecord):
                continue  # deleted meanwhile; or its log is damaged, and the others' are not
            since = describe_age(now - (job.finished_at or job.created_at))
            reason = f"it {job.status} {since} ago; the store has it"
            yield Removal("job in Redis", job.id, reason, (), 0)

    def sweep_store(self, now: float, *, dry_run: bool = False) -> Iterator[Removal]:
        """Each removal once it is done. With `dry_run` nothing is deleted."""
        if not dry_run:
            index_published_models(self.store)
        jobs = JobHistory(self.evictor.jobs, JobArchive(self.store))
        for removal in iter_removals(self.store, jobs, self.settings, now):
            if not dry_run:
                self._remove(removal)
            yield removal

    def _remove(self, removal: Removal) -> None:
        for upload in removal.uploads:
            self.store.abort_upload(upload)
        for key in removal.keys:
            self.store.delete(key)


def make_sweeper(redis: Redis, store: InventoriedStore, settings: RetentionSettings) -> Sweeper:
    """A sweeper of the real servers."""
    evictor = Evictor(
        RedisJobStore(redis),
        RedisEventLog(redis),
        RedisEventTrimmer(redis),
        RedisGenerationBuffer(redis),
        store,
    )
    return Sweeper(evictor, store, settings)
