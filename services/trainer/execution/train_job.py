"""TrainJobs of Kubeflow Trainer 2.3 as plain objects: made for a job, and read.

The runtime that they name has the container, its volumes and its resources: a TrainJob that Kueue
manages may change none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcrd.records.job import Job
from services.trainer.settings import KubeflowSettings

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
JOB_LABEL, LEASE_LABEL = "qcrd.io/job", "qcrd.io/lease"
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
KUEUE_GROUP, KUEUE_VERSION = "kueue.x-k8s.io", "v1beta2"
WORKLOAD_LABEL = "kueue.x-k8s.io/job-uid"
"""Of the workload that Kueue makes for a TrainJob: that one's uid."""
POD_LABEL = "jobset.sigs.k8s.io/jobset-name"
"""Of a TrainJob's pods: the JobSet has the TrainJob's name."""

TrainJob = Mapping[str, Any]


def name_train_job(job: Job) -> str:
    """The same for the same lease, which is what makes starting it twice harmless."""
    return f"{job.id}-{job.lease.token}"


def read_lease(train_job: TrainJob) -> int | None:
    """The token of the lease that it was made under."""
    token = train_job["metadata"].get("labels", {}).get(LEASE_LABEL, "")
    return int(token) if token.isdecimal() else None


def make_train_job(job: Job, settings: KubeflowSettings, processes: int) -> dict[str, Any]:
    """The TrainJob of `job` under its lease: `settings.nodes` pods with `processes` ranks each."""
    labels = {JOB_LABEL: job.id, LEASE_LABEL: str(job.lease.token)}
    if settings.queue:
        labels[QUEUE_LABEL] = settings.queue
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name_train_job(job), "labels": labels},
        "spec": {
            "suspend": bool(settings.queue),  # Kueue starts it
            "runtimeRef": {
                "apiGroup": GROUP,
                "kind": "TrainingRuntime",
                "name": settings.runtime,
            },
            "activeDeadlineSeconds": settings.deadline_seconds,
            "trainer": {
                "numNodes": settings.nodes,
                # Unset, the torch policy takes the number of CPUs.
                "numProcPerNode": processes,
                "command": ["python", "-m", "services.trainer.launch"],
                "args": [job.id, str(job.lease.token)],
            },
        },
    }


def find_end(train_job: TrainJob) -> str | None:
    """How it ended, in Kubernetes' words; None while it has not."""
    for condition in train_job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            told = condition.get("message") or condition.get("reason") or ""
            return f"TrainJob {train_job['metadata']['name']} is {condition['type']}: {told}"
    return None


def describe_waiting(train_job: TrainJob, settings: KubeflowSettings) -> str:
    """Why none of its ranks trains yet."""
    name = train_job["metadata"]["name"]
    if train_job["spec"].get("suspend"):
        if settings.queue:
            return f"TrainJob {name} waits for a place in Kueue's queue {settings.queue}"
        return f"TrainJob {name} is suspended"
    return f"TrainJob {name} is starting"


def find_not_admitted(workloads: Sequence[Mapping[str, Any]]) -> str | None:
    """Why Kueue reserves no quota for any of its workloads, in Kueue's words."""
    for workload in workloads:
        for condition in workload.get("status", {}).get("conditions", ()):
            if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                return str(condition.get("message") or condition.get("reason") or "") or None
    return None


def find_failed_container(pods: list[Any]) -> tuple[str, int, str] | None:
    """Pod, exit code and reason of the container that failed first, of Kubernetes' V1Pods."""
    failed = []
    for pod in pods:
        for container in pod.status.container_statuses or ():
            ended = container.state.terminated
            if ended is not None and ended.exit_code:
                reason = ended.reason or "Error"
                failed.append((ended.finished_at, pod.metadata.name, ended.exit_code, reason))
    if not failed:
        return None
    _, name, code, reason = min(failed, key=lambda one: (one[0] is None, str(one[0])))
    return name, code, reason


def find_killed_for_memory(pods: list[Any]) -> str | None:
    """Name of a pod whose container went over its memory limit."""
    for pod in pods:
        for container in pod.status.container_statuses or ():
            ended = container.state.terminated
            if ended is not None and ended.reason == "OOMKilled":
                return str(pod.metadata.name)
    return None


def find_unscheduled(pods: list[Any]) -> str | None:
    """Why a pod has no node or no image yet, in Kubernetes' words."""
    for pod in pods:
        for condition in pod.status.conditions or ():
            if condition.type == "PodScheduled" and condition.status == "False":
                return f"{pod.metadata.name}: {condition.message or condition.reason}"
        for container in pod.status.container_statuses or ():
            waiting = container.state.waiting
            if waiting is not None and waiting.reason != "ContainerCreating":
                return f"{pod.metadata.name}: {waiting.reason}: {waiting.message or ''}"
    return None
