"""A lease kept alive from a thread beside the work, and what the work may ask it."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from types import TracebackType
from typing import Self

from qcrd.errors import LeaseLost, NotFound, Transient
from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.commands import beat
from qcrd.runtime.jobs.store import JobStore

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Least time between two reads of the job on behalf of `look` and `check`."""


class Holding:
    """Beats every `heartbeat` seconds while its `with` block runs; a beat is good for `ttl`."""

    def __init__(self, jobs: JobStore, job: Job, *, heartbeat: float, ttl: float) -> None:
        self._jobs = jobs
        self._id = job.id
        self._token = job.lease.token
        self._heartbeat = heartbeat
        self._ttl = ttl
        self._wanted, self._taken = True, False
        self._read_at = self._beaten_at = time.monotonic()
        self._over = threading.Event()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._keep,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def look(self) -> bool:
        """Whether the job is still ours and to be worked on: not cancelled, paused or lost."""
        self._read()
        return self._wanted and not self._lapsed()

    def check(self) -> None:
        """`LeaseLost` when the job is over, gone or maybe another worker's. Whoever is to pause
        holds it still, and may write what there is."""
        self._read()
        if self._taken or self._lapsed():
            raise LeaseLost(f"job {self._id} is held by lease {self._token} no more")

    def _read(self) -> None:
        if time.monotonic() - self._read_at < LOOK_SECONDS:
            return
        self._read_at = time.monotonic()
        try:
            self._note(self._jobs.get(self._id))
        except NotFound:
            self._lost()
        except Transient as error:
            log.warning("cannot see whether the job is still wanted: %s", error)

    def _lapsed(self) -> bool:
        """A lease that may have lapsed may have been taken, even if we cannot see by whom."""
        return time.monotonic() - self._beaten_at >= self._ttl

    def _note(self, job: Job) -> None:
        self._taken = job.lease.token != self._token or not job.lease.owner
        self._wanted = not self._taken and job.status is JobStatus.RUNNING

    def _lost(self) -> None:
        self._wanted, self._taken = False, True

    def _keep(self) -> None:
        while not self._over.wait(self._heartbeat):
            asked = time.monotonic()
            try:
                self._note(beat(self._jobs, self._id, self._token, time.time(), self._ttl))
                self._beaten_at = asked
            except (LeaseLost, NotFound):
                self._lost()
                return
            except Transient as error:
                log.warning("heartbeat not written: %s", error)
