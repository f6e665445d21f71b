"""Trainings as TrainJobs of Kubeflow Trainer: their pods hold the GPUs, the worker watches.

A TrainJob has the name of its job and lease, so that a worker that finds it there takes it up. It
goes on without a worker: its rank 0 renews the lease, writes the events and tells the outcome.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from redis import Redis

from qcrd.errors import Transient
from qcrd.records.job import Job
from services.trainer.execution.adoption import WATCH_SECONDS
from services.trainer.execution.cluster_api import ClusterApi
from services.trainer.execution.executor import ExecutionStatus, StopReason
from services.trainer.execution.train_job import (
    JOB_LABEL,
    TrainJob,
    describe_waiting,
    find_end,
    find_failed_container,
    find_killed_for_memory,
    find_not_admitted,
    find_unscheduled,
    make_train_job,
    name_train_job,
    read_lease,
)
from services.trainer.execution.training_state import TrainingState
from services.trainer.settings import KubeflowSettings
from services.trainer.supervision.process_outcome import Outcome, make_memory_outcome

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0


@dataclass(frozen=True)
class KubeflowTraining:
    name: str
    state: TrainingState


class KubeflowExecutor:
    """A pod that is stopped has `grace_seconds` seconds to tell its outcome, which its runtime's
    grace period has to allow."""

    outlives_worker = True

    def __init__(
        self,
        cluster: ClusterApi,
        redis: Redis,
        settings: KubeflowSettings,
        *,
        watcher: str,
        processes: int = 1,
        grace_seconds: float = 30.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._cluster = cluster
        self._redis = redis
        self._settings = settings
        self._watcher = watcher
        self._processes = processes
        self._grace_seconds = grace_seconds
        self._poll_seconds = poll_seconds

    def start(self, job: Job) -> KubeflowTraining:
        name = name_train_job(job)
        training = KubeflowTraining(name, TrainingState(self._redis, job.id, job.lease.token))
        training.state.keep_watch(self._watcher, WATCH_SECONDS)
        if training.state.read_outcome() is not None or training.state.is_started():
            return training  # taken up: a cluster that is away now ends no training
        # Of earlier leases: paused, stopped, ended while no worker was there, or overtaken by this.
        found = self._cluster.list_train_jobs(f"{JOB_LABEL}={job.id}")
        older = [item for item in found if item["metadata"]["name"] != name]
        if (done := self._find_done(job.id, older)) is not None:
            done.state.keep_watch(self._watcher, WATCH_SECONDS)
            return done
        for each in older:
            self._cluster.delete(each["metadata"]["name"])
        if not self._cluster.create(make_train_job(job, self._settings, self._processes)):
            log.info("TrainJob %s is there already: taking it up", name)
        training.state.mark_started()
        return training

    def poll(self, execution: KubeflowTraining) -> ExecutionStatus:
        try:
            execution.state.keep_watch(self._watcher, WATCH_SECONDS)
            status = self._look(execution)
        except Transient as error:
            # It goes on, whether it can be looked at or not.
            log.warning("TrainJob %s: %s", execution.name, error)
            status = ExecutionStatus("waiting", reason=error.message)
        if status.state != "ended":
            time.sleep(self._poll_seconds)
        return status

    def cancel(self, execution: KubeflowTraining, reason: StopReason) -> None:
        """Suspend a paused job's TrainJob, which keeps what can be looked at; delete any other, and
        one of Kueue's too, as that would start a suspended one again."""
        try:
            if reason == "paused" and not self._settings.queue:
                self._cluster.suspend(execution.name)
            else:
                self._cluster.delete(execution.name)
            if reason != "hung" and execution.state.read_progress() is not None:
                self._wait_for_outcome(execution)
        except Transient as error:
            # Its lease ends now, and so does the training once it sees that.
            log.warning("TrainJob %s is left to its lease: %s", execution.name, error)

    def leave(self, execution: KubeflowTraining) -> None:
        try:
            execution.state.leave_watch()
        except Transient as error:  # it ends by itself
            log.warning("TrainJob %s: %s", execution.name, error)

    def outcome(self, execution: KubeflowTraining) -> Outcome | None:
        self.leave(execution)
        told = execution.state.read_outcome()
        try:
            if told is not None and told.kind == "done":
                self._cluster.delete(execution.name)
            if told is None or told.kind == "crashed":
                # Rank 0 sees of another one's end no more than that it is gone.
                pods = self._cluster.list_pods(execution.name)
                if (pod := find_killed_for_memory(pods)) is not None:
                    return make_memory_outcome(
                        f"Kubernetes killed pod {pod} because it went over its memory limit"
                    )
        except Transient as error:
            log.warning("TrainJob %s is left there: %s", execution.name, error)
        return told

    def _look(self, execution: KubeflowTraining) -> ExecutionStatus:
        if execution.state.read_outcome() is not None:
            return ExecutionStatus("ended", reason=f"TrainJob {execution.name} told its outcome")
        train_job = self._cluster.read(execution.name)
        if train_job is None:
            return ExecutionStatus("ended", reason=f"TrainJob {execution.name} was deleted")
        if (end := find_end(train_job)) is not None:
            # Between the two looks it may have told it.
            failed = find_failed_container(self._cluster.list_pods(execution.name))
            told = f"; pod {failed[0]} ended with {failed[1]} ({failed[2]})" if failed else ""
            return ExecutionStatus("ended", reason=end + told)
        progress = execution.state.read_progress()
        if progress is not None:
            return ExecutionStatus("running", progress)
        waiting = (describe_waiting(train_job, self._settings), self._find_hindrance(train_job))
        return ExecutionStatus("waiting", reason=": ".join(filter(None, waiting)))

    def _find_hindrance(self, train_job: TrainJob) -> str | None:
        """What keeps its pods from being, in Kueue's words, or from running, in Kubernetes'."""
        if not train_job["spec"].get("suspend"):
            return find_unscheduled(self._cluster.list_pods(train_job["metadata"]["name"]))
        if not self._settings.queue:
            return None
        try:
            return find_not_admitted(self._cluster.list_workloads(train_job["metadata"]["uid"]))
        except Transient as error:  # that it waits for Kueue is known without
            log.debug("TrainJob %s: %s", train_job["metadata"]["name"], error)
            return None

    def _wait_for_outcome(self, execution: KubeflowTraining) -> None:
        """Until it has told its outcome, so that its checkpoint is saved under the lease."""
        until = time.monotonic() + self._grace_seconds
        while execution.state.read_outcome() is None and time.monotonic() < until:
            train_job = self._cluster.read(execution.name)
            if train_job is None or find_end(train_job) is not None:
                return
            time.sleep(min(1.0, self._poll_seconds))

    def _find_done(self, job_id: str, older: Sequence[TrainJob]) -> KubeflowTraining | None:
        """One that has trained to its end, under a lease that expired before a worker saw that."""
        for each in older:
            if (token := read_lease(each)) is not None:
                state = TrainingState(self._redis, job_id, token)
                if (told := state.read_outcome()) is not None and told.kind == "done":
                    return KubeflowTraining(each["metadata"]["name"], state)
        return None
