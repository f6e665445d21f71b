"""Trainings as TrainJobs of Kubeflow Trainer: their pods hold the GPUs, the worker watches.

A TrainJob has the name of its job and lease, so that a worker that finds it there takes it up. It
goes on without a worker: its rank 0 renews the lease, writes the events and tells the outcome.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kubernetes.client import ApiClient, CoreV1Api, CustomObjectsApi
from kubernetes.client.exceptions import ApiException
from redis import Redis

from qcrd.errors import Transient
from qcrd.records.job import Job
from services.trainer.execution.adoption import WATCH_SECONDS
from services.trainer.execution.api_errors import translate_api_errors
from services.trainer.execution.executor import ExecutionStatus, StopReason
from services.trainer.execution.train_job import (
    GROUP,
    JOB_LABEL,
    LEASE_LABEL,
    PLURAL,
    POD_LABEL,
    VERSION,
    TrainJob,
    describe_waiting,
    find_end,
    find_failed_container,
    find_killed_for_memory,
    find_unscheduled,
    make_train_job,
    name_train_job,
)
from services.trainer.execution.training_state import TrainingState
from services.trainer.settings import KubeflowSettings
from services.trainer.supervision.process_outcome import Outcome, make_memory_outcome

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
REQUEST_SECONDS = 5.0
"""Of one request to the API server, which is not repeated: the three of one look together take less
time than the worker's watch of the training lasts."""


@dataclass(frozen=True)
class KubeflowTraining:
    name: str
    state: TrainingState


class KubeflowExecutor:
    """`namespace`: of the TrainJobs. A pod that is stopped has `grace_seconds` seconds to tell its
    outcome, which its runtime's grace period has to allow."""

    outlives_worker = True

    def __init__(
        self,
        api: ApiClient,
        redis: Redis,
        settings: KubeflowSettings,
        *,
        namespace: str,
        watcher: str,
        processes: int = 1,
        grace_seconds: float = 30.0,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._objects, self._core = CustomObjectsApi(api), CoreV1Api(api)
        self._redis = redis
        self._settings = settings
        self._watcher = watcher
        self._processes = processes
        self._grace_seconds = grace_seconds
        self._poll_seconds = poll_seconds
        self._where = (GROUP, VERSION, namespace, PLURAL)
        self._namespace = namespace

    def start(self, job: Job) -> KubeflowTraining:
        name = name_train_job(job)
        training = KubeflowTraining(name, TrainingState(self._redis, job.id, job.lease.token))
        training.state.keep_watch(self._watcher, WATCH_SECONDS)
        if training.state.read_outcome() is not None or training.state.is_started():
            return training  # taken up: a cluster that is away now ends no training
        older = self._list_older(job.id, name)
        if (done := self._find_done(job.id, older)) is not None:
            done.state.keep_watch(self._watcher, WATCH_SECONDS)
            return done
        for each in older:
            self._delete(each["metadata"]["name"])
        body = make_train_job(job, self._settings, self._processes)
        with translate_api_errors(f"create TrainJob {name}"):
            try:
                self._objects.create_namespaced_custom_object(
                    *self._where,
                    body,
                    field_validation="Strict",
                    _request_timeout=REQUEST_SECONDS,
                )
            except ApiException as error:
                if error.status != 409:
                    raise
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
                self._suspend(execution.name)
            else:
                self._delete(execution.name)
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
                self._delete(execution.name)
            if told is None or told.kind == "crashed":
                # Rank 0 sees of another one's end no more than that it is gone.
                pods = self._list_pods(execution.name)
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
        train_job = self._read(execution.name)
        if train_job is None:
            return ExecutionStatus("ended", reason=f"TrainJob {execution.name} was deleted")
        if (end := find_end(train_job)) is not None:
            # Between the two looks it may have told it.
            failed = find_failed_container(self._list_pods(execution.name))
            told = f"; pod {failed[0]} ended with {failed[1]} ({failed[2]})" if failed else ""
            return ExecutionStatus("ended", reason=end + told)
        progress = execution.state.read_progress()
        if progress is not None:
            return ExecutionStatus("running", progress)
        waiting = describe_waiting(train_job, self._settings)
        if not train_job["spec"].get("suspend"):
            hindered = find_unscheduled(self._list_pods(execution.name))
            waiting = f"{waiting}: {hindered}" if hindered else waiting
        return ExecutionStatus("waiting", reason=waiting)

    def _wait_for_outcome(self, execution: KubeflowTraining) -> None:
        """Until it has told its outcome, so that its checkpoint is saved under the lease."""
        until = time.monotonic() + self._grace_seconds
        while execution.state.read_outcome() is None and time.monotonic() < until:
            train_job = self._read(execution.name)
            if train_job is None or find_end(train_job) is not None:
                return
            time.sleep(min(1.0, self._poll_seconds))

    def _list_older(self, job_id: str, name: str) -> list[TrainJob]:
        """TrainJobs of the job's earlier leases: paused, stopped, ended while no worker was there,
        or overtaken by this one."""
        with translate_api_errors(f"list the TrainJobs of {job_id}"):
            found: Any = self._objects.list_namespaced_custom_object(
                *self._where,
                label_selector=f"{JOB_LABEL}={job_id}",
                _request_timeout=REQUEST_SECONDS,
            )
        return [item for item in found["items"] if item["metadata"]["name"] != name]

    def _find_done(self, job_id: str, older: Sequence[TrainJob]) -> KubeflowTraining | None:
        """One that has trained to its end, under a lease that expired before a worker saw that."""
        for each in older:
            token = each["metadata"].get("labels", {}).get(LEASE_LABEL, "")
            if token.isdecimal():
                state = TrainingState(self._redis, job_id, int(token))
                if (told := state.read_outcome()) is not None and told.kind == "done":
                    return KubeflowTraining(each["metadata"]["name"], state)
        return None

    def _read(self, name: str) -> TrainJob | None:
        with translate_api_errors(f"read TrainJob {name}"):
            try:
                found: Any = self._objects.get_namespaced_custom_object(
                    *self._where, name, _request_timeout=REQUEST_SECONDS
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        read: TrainJob = found
        return read

    def _suspend(self, name: str) -> None:
        with translate_api_errors(f"suspend TrainJob {name}"):
            self._objects.patch_namespaced_custom_object(
                *self._where,
                name,
                {"spec": {"suspend": True}},
                _content_type="application/merge-patch+json",
                _request_timeout=REQUEST_SECONDS,
            )

    def _delete(self, name: str) -> None:
        """It stays, marked as going, until its pods are gone."""
        with translate_api_errors(f"delete TrainJob {name}"):
            try:
                self._objects.delete_namespaced_custom_object(
                    *self._where,
                    name,
                    propagation_policy="Foreground",
                    _request_timeout=REQUEST_SECONDS,
                )
            except ApiException as error:
                if error.status != 404:
                    raise

    def _list_pods(self, name: str) -> list[Any]:
        with translate_api_errors(f"list the pods of TrainJob {name}"):
            found = self._core.list_namespaced_pod(
                self._namespace,
                label_selector=f"{POD_LABEL}={name}",
                _request_timeout=REQUEST_SECONDS,
            )
        pods: list[Any] = found.items
        return pods
