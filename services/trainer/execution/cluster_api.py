"""What a Kubernetes API server is asked about trainings, each request bounded and not repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kubernetes.client import ApiClient, CoreV1Api, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from services.trainer.execution.api_errors import translate_api_errors
from services.trainer.execution.train_job import (
    GROUP,
    KUEUE_GROUP,
    KUEUE_VERSION,
    PLURAL,
    POD_LABEL,
    VERSION,
    WORKLOAD_LABEL,
    TrainJob,
)

REQUEST_SECONDS = 5.0
"""Of one request to the API server, which is not repeated: the three of one look together take less
time than the worker's watch of the training lasts."""


class ClusterApi:
    """TrainJobs, their pods and Kueue's workloads in one namespace.

    Every method raises `Transient` while the API server is away or refuses.
    """

    def __init__(self, api: ApiClient, namespace: str) -> None:
        self._objects, self._core = CustomObjectsApi(api), CoreV1Api(api)
        self._where = (GROUP, VERSION, namespace, PLURAL)
        self._namespace = namespace

    def create(self, body: dict[str, Any]) -> bool:
        """False where there is one of its name already."""
        with translate_api_errors(f"create TrainJob {body['metadata']['name']}"):
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
                return False
        return True

    def read(self, name: str) -> TrainJob | None:
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

    def list_train_jobs(self, selector: str) -> Sequence[TrainJob]:
        """Those with the labels that `selector` asks for."""
        with translate_api_errors(f"list the TrainJobs with {selector}"):
            found: Any = self._objects.list_namespaced_custom_object(
                *self._where, label_selector=selector, _request_timeout=REQUEST_SECONDS
            )
        listed: list[TrainJob] = found["items"]
        return listed

    def suspend(self, name: str) -> None:
        with translate_api_errors(f"suspend TrainJob {name}"):
            self._objects.patch_namespaced_custom_object(
                *self._where,
                name,
                {"spec": {"suspend": True}},
                _content_type="application/merge-patch+json",
                _request_timeout=REQUEST_SECONDS,
            )

    def delete(self, name: str) -> None:
        """It stays, marked as going, until its pods are gone. Idempotent."""
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

    def list_pods(self, name: str) -> list[Any]:
        """Kubernetes' V1Pods of TrainJob `name`."""
        with translate_api_errors(f"list the pods of TrainJob {name}"):
            found = self._core.list_namespaced_pod(
                self._namespace,
                label_selector=f"{POD_LABEL}={name}",
                _request_timeout=REQUEST_SECONDS,
            )
        pods: list[Any] = found.items
        return pods

    def list_workloads(self, uid: str) -> Sequence[Any]:
        """Kueue's workloads for the TrainJob with this uid."""
        with translate_api_errors("list Kueue's workloads"):
            found: Any = self._objects.list_namespaced_custom_object(
                KUEUE_GROUP,
                KUEUE_VERSION,
                self._namespace,
                "workloads",
                label_selector=f"{WORKLOAD_LABEL}={uid}",
                _request_timeout=REQUEST_SECONDS,
            )
        workloads: list[Any] = found["items"]
        return workloads
