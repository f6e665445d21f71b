"""Renew a job's lease from a thread beside the work."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from types import TracebackType
from typing import Self

from qcrd.errors import LeaseLost, NotFound, Transient, UnreadableRecord
from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.commands import renew_lease
from qcrd.runtime.jobs.store import JobStore

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Least time between two reads of the job by `should_continue` and `check_lease`."""


class LeaseHeartbeat:
    """Renews the lease every `heartbeat` seconds, for `ttl`, while its `with` block runs."""

    def __init__(self, jobs: JobStore, job: Job, *, heartbeat: float, ttl: float) -> None:
        self._jobs = jobs
        self._id = job.id
        self._token = job.lease.token
        self._heartbeat = heartbeat
        self._ttl = ttl
        self._should_run, self._lease_lost = True, False
        self._polled_at = self._renewed_at = time.monotonic()
        self._stop = threading.Event()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._renew_loop,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def set_ttl(self, ttl: float) -> None:
        """Have the lease last `ttl` seconds from each renewal on, the first of which is now."""
        if ttl == self._ttl:
            return
        self._ttl = ttl
        try:
            self._renew()
        except Transient as error:
            log.warning("lease not renewed: %s", error)

    def should_continue(self) -> bool:
        """Whether to keep working: the lease is current, and the job not cancelled or paused."""
        self._poll_job()
        return self._should_run and not self._may_have_expired()

    def check_lease(self) -> None:
        """`LeaseLost` when the job is finished, deleted, of a release that this one cannot read, or
        may have another worker. A worker that was asked to pause still holds the lease and may save
        its work."""
        self._poll_job()
        if self._lease_lost or self._may_have_expired():
            raise LeaseLost(f"job {self._id} is no longer leased with token {self._token}")

    def _poll_job(self) -> None:
        if time.monotonic() - self._polled_at < POLL_SECONDS:
            return
        self._polled_at = time.monotonic()
        try:
            self._update_from_job(self._jobs.get(self._id))
        except (NotFound, UnreadableRecord):
            self._mark_lost()
        except Transient as error:
            log.warning("cannot read the job to check whether it was cancelled: %s", error)

    def _may_have_expired(self) -> bool:
        """After `ttl` without a renewal, another worker may have claimed the job."""
        return time.monotonic() - self._renewed_at >= self._ttl

    def _update_from_job(self, job: Job) -> None:
        self._lease_lost = job.lease.token != self._token or not job.lease.owner
        self._should_run = not self._lease_lost and job.status is JobStatus.RUNNING

    def _mark_lost(self) -> None:
        self._should_run, self._lease_lost = False, True

    def _renew(self) -> None:
        sent_at = time.monotonic()
        try:
            self._update_from_job(
                renew_lease(self._jobs, self._id, self._token, self._jobs.now(), self._ttl)
            )
            self._renewed_at = sent_at
        except (LeaseLost, NotFound, UnreadableRecord):
            self._mark_lost()

    def _renew_loop(self) -> None:
        while not self._lease_lost and not self._stop.wait(self._heartbeat):
            try:
                self._renew()
            except Transient as error:
                log.warning("lease not renewed: %s", error)
