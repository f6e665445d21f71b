"""Redis holds what lives: ended jobs leave it for the archive, as do old events of long logs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from qcrd.errors import NotFound, UnreadableRecord
from qcrd.records.job import Job
from qcrd.runtime import keys
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.state_machine import TERMINAL, with_changes
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.redis.event_log import EventLog
from qcrd.runtime.redis.event_trimming import EventTrimmer
from qcrd.runtime.redis.generation_buffer import AccountUpdate, GenerationBuffer
from qcrd.runtime.storage.store import Store

log = logging.getLogger(__name__)

PAGE_SIZE = 100
LONG_LOG = 10_000
"""Events in Redis, about 3.4 MB, beyond which the older ones of a living job are archived."""
KEPT_EVENTS = 5_000
"""The newest ones, which stay."""
WEBHOOK_SECONDS = 4 * 86400.0
"""For which an ended job's webhook may still be tried: a little over three days."""


@dataclass(frozen=True)
class Evictor:
    """`jobs` and `events` are those in Redis alone."""

    jobs: JobStore
    events: EventLog
    trimmer: EventTrimmer
    buffer: GenerationBuffer
    store: Store

    def iter_due(self, now: float, seconds: float) -> Iterator[Job]:
        """The jobs in Redis that ended over `seconds` ago and that nothing there needs any more."""
        # Those that nobody has concluded; records of before there was that word are in no index.
        open_ids = {job.id for job in self.jobs.iter_active()}
        place = None
        while page := self.jobs.list_older(place, PAGE_SIZE):
            place = (page[-1].created_at, page[-1].id)
            yield from (
                job for job in page if job.id not in open_ids and self._is_due(job, now, seconds)
            )

    def _is_due(self, job: Job, now: float, seconds: float) -> bool:
        if job.status not in TERMINAL:
            return False
        over = now - (job.finished_at or job.created_at)
        if over <= seconds or (job.spec.webhook is not None and over <= WEBHOOK_SECONDS):
            return False
        # What it has with its teacher by batch is settled in its account, until nothing is left.
        return not self.store.list(keys.batch_prefix(job.id), limit=1)

    def evict(self, job: Job) -> bool:
        """Archive the job as it is now and delete it from Redis; False where it was told of more
        meanwhile, and has to be evicted later. `NotFound` where it was deleted."""
        job, archive = with_changes(self.jobs.get(job.id), concluded=True), EventArchive(self.store)
        newest = archive.add_new(job.id, self.events)
        try:
            JobArchive(self.store).save(job)
        except NotFound:
            archive.delete(job.id)
            raise
        if newest is not None and not self.trimmer.delete_through(job.id, newest):
            return False
        account = tuple(self.buffer.read_account(job.id))
        if account:
            self.buffer.update_account(AccountUpdate(job.id, removed=account))
        self.jobs.delete(job.id)
        return True

    def archive_long_logs(self, *, longest: int = LONG_LOG, kept: int = KEPT_EVENTS) -> list[str]:
        """Move the older events of logs with over `longest` events to the archive, all but the
        newest `kept`; the ids of their jobs."""
        moved = []
        for job in self.jobs.iter_active():
            try:
                if self.trimmer.count(job.id) > longest and self._archive_older(job.id, kept):
                    moved.append(job.id)
            except UnreadableRecord as error:
                log.warning("no events archived: %s", error, extra={"data": {"job_id": job.id}})
        return moved

    def _archive_older(self, job_id: str, kept: int) -> bool:
        newest = self.events.read(job_id, None, kept + 1, newest_first=True)
        if newest:
            through = newest[-1].id
            EventArchive(self.store).add_new(job_id, self.events, through=through)
            self.trimmer.trim(job_id, through)
        return bool(newest)
