"""The real Kubernetes client before a fake API server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml

from tests import fake_kubernetes, manifests
from tests.conftest import needed
from tests.fake_kubernetes import FakeCluster

ROLE = manifests.K8S / "components/kubeflow/rbac.yaml"


def read_permissions() -> set[tuple[str, str]]:
    """Verb and resource, of the Role that the trainer gets."""
    (role,) = (d for d in yaml.safe_load_all(ROLE.read_text()) if d["kind"] == "Role")
    return {
        (verb, resource)
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


@pytest.fixture
def cluster() -> FakeCluster:
    """It allows what the Role of k8s/components/kubeflow does, and nothing else."""
    return FakeCluster(allowed=read_permissions())


@pytest.fixture
def api(cluster: FakeCluster) -> Iterator[object]:
    client = needed("kubernetes.client")
    with fake_kubernetes.running(cluster) as url:
        yield client.ApiClient(client.Configuration(host=url))
