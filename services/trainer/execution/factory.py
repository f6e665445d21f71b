"""The executor that the environment asks for."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path

from pydantic_settings import SettingsError
from redis import Redis

from services.trainer.execution.executor import Executor
from services.trainer.execution.local import LocalExecutor
from services.trainer.settings import KubeflowSettings, TrainerSettings

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
        return LocalExecutor(grace_seconds=settings.grace_seconds, processes=settings.processes)
    # Only where it is asked for: the client is in an extra of its own.
    from kubernetes import client, config

    from services.trainer.execution.kubeflow import KubeflowExecutor

    kubeflow = KubeflowSettings()
    if os.environ.get("KUBERNETES_SERVICE_HOST"):
        settings_of_pod = client.Configuration()
        config.load_incluster_config(settings_of_pod)
        api = client.ApiClient(settings_of_pod)
    else:
        api = config.new_client_from_config(context=kubeflow.context)
    return KubeflowExecutor(
        api,
        redis,
        kubeflow,
        namespace=find_namespace(kubeflow),
        watcher=name_watcher(),
        processes=settings.processes,
        grace_seconds=settings.grace_seconds,
    )
