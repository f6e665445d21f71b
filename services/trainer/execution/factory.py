"""The executor that the environment asks for."""

from __future__ import annotations

import importlib.util
import os
import socket
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic_settings import SettingsError
from redis import Redis

from qcrd.records.job import Job
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.settings import ModelSettings, load_settings
from services.trainer.execution.executor import Executor
from services.trainer.execution.local import LocalExecutor
from services.trainer.execution.process_count import choose_processes, find_gpu
from services.trainer.settings import AUTO, KubeflowSettings, TrainerSettings

if TYPE_CHECKING:
    from services.trainer.execution.cluster_api import ClusterApi

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""The namespace of a pod that has its service account's token."""


def check_executor(settings: TrainerSettings) -> None:
    """`SettingsError` when this environment cannot have the executor that it asks for."""
    if settings.executor == "local":
        return
    if importlib.util.find_spec("kubernetes") is None:
        raise SettingsError(
            "QCRD_EXECUTOR=kubeflow: the Kubernetes client is missing: pip install 'qcrd[kubeflow]'"
        )
    find_namespace(KubeflowSettings())


def find_namespace(settings: KubeflowSettings) -> str:
    if settings.namespace:
        return settings.namespace
    if NAMESPACE_FILE.is_file():
        return NAMESPACE_FILE.read_text().strip()
    raise SettingsError(
        "QCRD_KUBEFLOW_NAMESPACE: is not set, and there is no service account's token here whose "
        "namespace could be taken: set it, or mount the token"
    )


def name_watcher() -> str:
    """This worker, among those that watch trainings."""
    return f"{socket.gethostname()}:{os.getpid()}"


def make_executor(settings: TrainerSettings, redis: Redis) -> Executor:
    if settings.executor == "local":
        return LocalExecutor(
            grace_seconds=settings.grace_seconds,
            choose_processes=partial(_count_processes, settings, load_settings(ModelSettings)),
        )
    # Only where it is asked for: the client is in an extra of its own.
    from services.trainer.execution.kubeflow import KubeflowExecutor

    kubeflow = KubeflowSettings()
    return KubeflowExecutor(
        _connect_cluster(kubeflow),
        redis,
        kubeflow,
        watcher=name_watcher(),
        processes=settings.fixed_processes,
        grace_seconds=settings.grace_seconds,
    )


def _count_processes(settings: TrainerSettings, models: ModelSettings, job: Job) -> int:
    if settings.processes != AUTO:
        return settings.processes
    if job.micro_batches > 1:  # memory ran out
        return 1
    # A job goes on with as many as it was begun with: what dropout draws depends on them.
    return job.processes or choose_processes(
        job.spec, models.models_dir, has_gpu=settings.device != "cpu" and find_gpu()
    )


def start_removing_leftovers(redis: Redis, jobs: JobStore, stop_event: threading.Event) -> None:
    """Delete the TrainJobs of jobs that are over, in a thread, until the worker stops."""
    from services.trainer.execution.leftovers import LeftoverRemover, start_removing

    kubeflow = KubeflowSettings()
    kept = kubeflow.kept_seconds
    start_removing(
        lambda: LeftoverRemover(_connect_cluster(kubeflow), redis, jobs, kept_seconds=kept),
        stop_event,
    )


def _connect_cluster(settings: KubeflowSettings) -> ClusterApi:
    from kubernetes import client, config

    from services.trainer.execution.cluster_api import ClusterApi

    configuration = client.Configuration()
    # urllib3 would repeat a request that hangs three times, for longer than a watch lasts.
    configuration.retries = False
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(configuration)
    else:
        config.load_kube_config(context=settings.context, client_configuration=configuration)
    return ClusterApi(client.ApiClient(configuration), find_namespace(settings))
