"""The Kubernetes objects of a folder under k8s/, as `kubectl kustomize` makes them."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path(__file__).parents[1] / "k8s"
Json = dict[str, Any]


@functools.cache
def render(folder: str) -> tuple[Json, ...]:
    """Of k8s/`folder`; skips the test where there is no kubectl."""
    if (kubectl := shutil.which("kubectl")) is None:
        pytest.skip("no kubectl here: manifests are rendered by its kustomize")
    command = [kubectl, "kustomize", str(K8S / folder)]
    made = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return tuple(yaml.safe_load_all(made))


def of_kind(documents: tuple[Json, ...], *kinds: str) -> list[Json]:
    return [document for document in documents if document["kind"] in kinds]


def pod_templates(documents: tuple[Json, ...]) -> dict[str, Json]:
    """Pod templates by the name of what they are of; a TrainingRuntime's are called `training`."""
    found = {
        d["metadata"]["name"]: d["spec"]["template"]
        for d in of_kind(documents, "Deployment", "StatefulSet", "Job")
    }
    for runtime in of_kind(documents, "TrainingRuntime"):
        (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        found["training"] = node["template"]["spec"]["template"]
    return found


def environment(documents: tuple[Json, ...], container: Json) -> dict[str, Json]:
    """Variable -> its entry, as the container gets them; those of config maps have a value."""
    maps = {d["metadata"]["name"]: d["data"] for d in of_kind(documents, "ConfigMap")}
    found: dict[str, Json] = {}
    for source in container.get("envFrom", ()):
        data = maps[source["configMapRef"]["name"]]
        found |= {name: {"name": name, "value": value} for name, value in data.items()}
    return found | {entry["name"]: entry for entry in container.get("env", ())}


def allows(policies: list[Json], labels: Json, peer: Json, port: int, way: str) -> bool:
    """Whether some policy lets pods with `labels` receive from (`ingress`) or send to (`egress`)
    pods with the labels `peer`, on `port`."""
    return any(
        _matches(peer, selector) and _opens(rule, port)
        for policy in policies
        if _selects(policy["spec"]["podSelector"], labels)
        for rule in policy["spec"].get(way, ())
        for selector in rule.get("from" if way == "ingress" else "to", [{"podSelector": {}}])
    )


def _matches(labels: Json, peer: Json) -> bool:
    return "podSelector" in peer and _selects(peer["podSelector"], labels)


def _selects(selector: Json, labels: Json) -> bool:
    wanted = selector.get("matchLabels", {})
    listed = selector.get("matchExpressions", ())
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        labels.get(one["key"]) in one["values"] for one in listed
    )


def _opens(rule: Json, port: int) -> bool:
    return any(one["port"] == port for one in rule.get("ports", [{"port": port}]))


def iter_containers(documents: tuple[Json, ...]) -> Iterator[tuple[str, Json]]:
    for name, template in pod_templates(documents).items():
        for container in template["spec"]["containers"]:
            yield name, container
