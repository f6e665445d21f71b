"""Takes up trainings whose worker is gone: killed, rolled over, or on a node that was drained."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from redis import Redis

from qcrd.errors import QcrdError
from qcrd.records.job import Job, JobStatus, Stage
from qcrd.runtime.jobs.stage_context import StageWork, WorkerDeps
from qcrd.runtime.jobs.stage_runner import resume_stage
from qcrd.runtime.jobs.state_machine import STAGE_TASKS, is_lease_revoked
from services.trainer.execution.training_state import TrainingState

log = logging.getLogger(__name__)

WATCH_SECONDS = 20.0
"""A worker that has not looked at its training for so long is gone. With two looks, less than a
lease is left for: a training without pods does not renew it."""
LOOK_SECONDS = 5.0


class Adopter:
    """Finds trainings that nobody watches, by `watcher`, and runs `work` for each in a thread."""

    def __init__(self, deps: WorkerDeps, redis: Redis, watcher: str, work: StageWork) -> None:
        self._deps = deps
        self._redis = redis
        self._watcher = watcher
        self._work = work
        self._suspects: set[tuple[str, int]] = set()

    def adopt(self) -> list[threading.Thread]:
        """Look once. A training is taken at the second look that finds it unwatched: at the first
        its worker may just have claimed its job."""
        unwatched = {(job.id, job.lease.token): job for job in self._iter_unwatched()}
        suspects, self._suspects = self._suspects, set(unwatched)
        return [
            self._resume(job)
            for key, job in unwatched.items()
            if key in suspects and self._state(job).take_watch(self._watcher, WATCH_SECONDS)
        ]

    def _iter_unwatched(self) -> Iterator[Job]:
        for job in self._deps.jobs.list_held(STAGE_TASKS[Stage.TRAINING]):
            running = job.status is JobStatus.RUNNING and not is_lease_revoked(job)
            if running and not self._state(job).is_watched():
                yield job

    def _state(self, job: Job) -> TrainingState:
        return TrainingState(self._redis, job.id, job.lease.token)

    def _resume(self, job: Job) -> threading.Thread:
        log.warning("the training of job %s has lost its worker: taking it up", job.id)
        thread = threading.Thread(
            target=resume_stage, args=(self._deps, job, self._work), name=job.id, daemon=True
        )
        thread.start()
        return thread


def start_adopting(make_adopter: Callable[[], Adopter], stop_event: threading.Event) -> None:
    """Look every few seconds, in a thread, until the worker stops."""

    def look_until_stopped() -> None:
        adopter = make_adopter()
        while not stop_event.wait(LOOK_SECONDS):
            try:
                adopter.adopt()
            except QcrdError as error:
                log.warning("cannot look for trainings without a worker: %s", error)

    threading.Thread(target=look_until_stopped, name="adopter", daemon=True).start()
