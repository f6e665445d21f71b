"""Deletes TrainJobs whose job has ended or was deleted, which no worker watches any more."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from redis import Redis

from qcrd.errors import NotFound, QcrdError, UnreadableRecord
from qcrd.records.job import Job, JobStatus
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore
from services.trainer.execution.cluster_api import ClusterApi
from services.trainer.execution.train_job import JOB_LABEL, read_lease
from services.trainer.execution.training_state import TrainingState

log = logging.getLogger(__name__)

LOOK_SECONDS = 60.0


class LeftoverRemover:
    """`jobs`: those in Redis alone. A failed job's TrainJob, whose pods have its logs, is kept for
    `kept_seconds` seconds after its end. Any number of workers may remove at once."""

    def __init__(
        self, cluster: ClusterApi, redis: Redis, jobs: JobStore, *, kept_seconds: float
    ) -> None:
        self._cluster = cluster
        self._redis = redis
        self.jobs = jobs
        self._kept_seconds = kept_seconds

    def remove(self, now: float) -> list[str]:
        """Look once, at `now` by the jobs' clock; the names of what is going. `Transient`."""
        removed = list(self._iter_leftovers(now))
        for name in removed:
            self._cluster.delete(name)
            log.info("deleted TrainJob %s: its job has ended or was deleted", name)
        return removed

    def _iter_leftovers(self, now: float) -> Iterator[str]:
        for train_job in self._cluster.list_train_jobs(JOB_LABEL):
            about, token = train_job["metadata"], read_lease(train_job)
            if token is None or "deletionTimestamp" in about:
                continue
            state = TrainingState(self._redis, about["labels"][JOB_LABEL], token)
            if not state.is_watched() and self._is_leftover(state, now):
                yield about["name"]

    def _is_leftover(self, state: TrainingState, now: float) -> bool:
        try:
            job = self.jobs.get(state.job_id)
        except NotFound:
            # Of a job that this Redis knew; others in the namespace are another installation's.
            return state.is_started()
        except UnreadableRecord:
            return False
        if self._is_over(job, now):
            return True
        state.mark_started()  # for as long as its job is known
        return False

    def _is_over(self, job: Job, now: float) -> bool:
        if job.status not in TERMINAL:
            return False
        ended_at = job.finished_at or job.created_at
        return job.status is not JobStatus.FAILED or now - ended_at > self._kept_seconds


def start_removing(
    make_remover: Callable[[], LeftoverRemover], stop_event: threading.Event
) -> None:
    """Look now and then every minute, in a thread, until the worker stops."""

    def look_until_stopped() -> None:
        remover = make_remover()
        while True:
            try:
                remover.remove(remover.jobs.now())
            except QcrdError as error:
                log.warning("cannot look for TrainJobs of ended jobs: %s", error)
            if stop_event.wait(LOOK_SECONDS):
                return

    threading.Thread(target=look_until_stopped, name="leftovers", daemon=True).start()
