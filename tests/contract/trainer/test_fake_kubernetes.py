"""The fake API server answers the real client as a real one was measured to."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.client import ApiClient, CustomObjectsApi
from kubernetes.client.exceptions import ApiException

from tests.fakes.kubernetes import FakeCluster

WHERE = ("trainer.kubeflow.org", "v1alpha1", "qcrd", "trainjobs")
MERGE = {"_content_type": "application/merge-patch+json"}


def train_job(name: str = "job-1", **spec: Any) -> dict[str, Any]:
    about = {"apiVersion": f"{WHERE[0]}/{WHERE[1]}", "kind": "TrainJob"}
    trainer = {"numNodes": 2, "numProcPerNode": 1, "command": ["true"]}
    made = {"suspend": False, "runtimeRef": {"name": "torch"}, "trainer": trainer, **spec}
    return {**about, "metadata": {"name": name, "labels": {"a": "b"}}, "spec": made}


@pytest.fixture
def objects(api: ApiClient) -> CustomObjectsApi:
    return CustomObjectsApi(api)


def refusal(call: Any, *args: Any, **kwargs: Any) -> tuple[int, str]:
    with pytest.raises(ApiException) as raised:
        call(*args, **kwargs)
    return raised.value.status, str(raised.value.body)


def test_a_taken_name_is_a_conflict(objects: CustomObjectsApi) -> None:
    objects.create_namespaced_custom_object(*WHERE, train_job())
    status, told = refusal(objects.create_namespaced_custom_object, *WHERE, train_job())
    assert status == 409
    assert "already exists" in told


@pytest.mark.parametrize("name", ["Job", "1job", "j" * 64, "a.b"])
def test_a_name_is_a_label(objects: CustomObjectsApi, name: str) -> None:
    status, _ = refusal(objects.create_namespaced_custom_object, *WHERE, train_job(name))
    assert status == 422


def test_unknown_fields_are_refused_when_strict_and_pruned_when_not(
    objects: CustomObjectsApi,
) -> None:
    older = train_job(podTemplateOverrides=[])
    create = objects.create_namespaced_custom_object
    status, told = refusal(create, *WHERE, older, field_validation="Strict")
    assert (status, 'unknown field \\"spec.podTemplateOverrides\\"' in told) == (400, True)
    assert "podTemplateOverrides" not in create(*WHERE, older)["spec"]


def test_the_torch_policy_keeps_its_variables(objects: CustomObjectsApi) -> None:
    body = train_job()
    body["spec"]["trainer"]["env"] = [{"name": "PET_NNODES", "value": "2"}]
    status, _ = refusal(objects.create_namespaced_custom_object, *WHERE, body)
    assert status == 422


def test_only_suspension_can_be_changed_and_nothing_else_shows_it(
    objects: CustomObjectsApi, cluster: FakeCluster
) -> None:
    stopped: list[str] = []
    cluster.on_stop = lambda job: stopped.append(job["metadata"]["name"])
    objects.create_namespaced_custom_object(*WHERE, train_job())
    patch = objects.patch_namespaced_custom_object
    status, told = refusal(patch, *WHERE, "job-1", {"spec": {"trainer": {"numNodes": 3}}}, **MERGE)
    assert (status, "immutable" in told) == (422, True)
    patch(*WHERE, "job-1", {"spec": {"suspend": True}}, **MERGE)
    found = objects.get_namespaced_custom_object(*WHERE, "job-1")
    assert found["spec"]["suspend"] is True
    assert "status" not in found
    assert stopped == ["job-1"]


def test_foreground_deletion_waits_for_the_pods(
    objects: CustomObjectsApi, cluster: FakeCluster
) -> None:
    objects.create_namespaced_custom_object(*WHERE, train_job())
    objects.delete_namespaced_custom_object(*WHERE, "job-1", propagation_policy="Foreground")
    found = objects.get_namespaced_custom_object(*WHERE, "job-1")
    assert found["metadata"]["deletionTimestamp"]
    cluster.finish_deletion("job-1")
    assert refusal(objects.get_namespaced_custom_object, *WHERE, "job-1")[0] == 404


def test_lists_are_by_label(objects: CustomObjectsApi) -> None:
    objects.create_namespaced_custom_object(*WHERE, train_job())
    listed = objects.list_namespaced_custom_object
    assert len(listed(*WHERE, label_selector="a=b")["items"]) == 1
    assert listed(*WHERE, label_selector="a=c")["items"] == []


def test_a_missing_permission_is_named(objects: CustomObjectsApi, cluster: FakeCluster) -> None:
    cluster.allowed = set()
    status, told = refusal(objects.create_namespaced_custom_object, *WHERE, train_job())
    assert status == 403
    assert 'cannot create resource \\"trainjobs\\" in API group' in told
