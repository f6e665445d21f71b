"""The real Kubernetes client before a fake API server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from qcrd.runtime.settings import RedisSettings
from tests import manifests
from tests.conftest import needed
from tests.fakes import kubernetes as fake_kubernetes
from tests.fakes.kubernetes import FakeCluster

ROLES = ("kubeflow/rbac.yaml", "kueue/queue.yaml")


def read_permissions() -> set[tuple[str, str]]:
    """Verb and resource, of the Roles that the trainer gets."""
    texts = ((manifests.K8S / "components" / name).read_text() for name in ROLES)
    documents = [d for text in texts for d in yaml.safe_load_all(text)]
    return {
        (verb, resource)
        for role in documents
        if role["kind"] == "Role"
        for rule in role["rules"]
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }


@pytest.fixture
def cluster() -> FakeCluster:
    """It allows what the Roles of k8s/components do, and nothing else."""
    return FakeCluster(allowed=read_permissions())


@pytest.fixture
def api(cluster: FakeCluster) -> Iterator[object]:
    client = needed("kubernetes.client")
    with fake_kubernetes.running(cluster) as url:
        yield client.ApiClient(client.Configuration(host=url))


@pytest.fixture
def site(cluster: FakeCluster, api: Any, redis_settings: RedisSettings) -> Any:
    # Without the client's wheel `api` has skipped the test.
    from tests.contract.trainer.cluster_site import Site

    return Site(cluster, api, redis_settings)
