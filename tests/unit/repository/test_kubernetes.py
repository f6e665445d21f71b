"""The Kubernetes base, as far as it can be judged without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from services.teacher.settings import ServerSettings
from services.trainer.settings import TrainerSettings

BASE = Path(__file__).parents[3] / "k8s/base"


def documents() -> list[dict[str, Any]]:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return [d for name in listed for d in yaml.safe_load_all((BASE / name).read_text())]


def workloads() -> dict[str, dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet")
    return {d["metadata"]["name"]: d for d in documents() if d["kind"] in kinds}


def test_every_file_is_listed() -> None:
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(p.name for p in BASE.iterdir())


def test_selectors_labels_and_ports_agree() -> None:
    made = workloads()
    for workload in made.values():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in (d for d in documents() if d["kind"] == "Service"):
        pod = made[service["spec"]["selector"]["app"]]["spec"]["template"]["spec"]
        opened = {p["containerPort"] for c in pod["containers"] for p in c.get("ports", ())}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= opened


def test_no_container_is_root_or_can_become_it() -> None:
    for name, workload in workloads().items():
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            guard = container["securityContext"]
            assert guard["readOnlyRootFilesystem"] is True, name
            assert guard["allowPrivilegeEscalation"] is False, name
            assert guard["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_the_configured_hosts_are_services() -> None:
    services = {d["metadata"]["name"] for d in documents() if d["kind"] == "Service"}
    literals = yaml.safe_load((BASE / "kustomization.yaml").read_text())["configMapGenerator"][0]
    text = " ".join(literals["literals"])
    for host in ("redis", "minio", "discriminator", "teacher", "students"):
        assert host in services
        assert f"{host}:" in text


def test_the_trainer_gets_longer_than_its_process() -> None:
    grace = workloads()["trainer"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > TrainerSettings().grace_seconds


def test_the_students_get_longer_than_their_requests() -> None:
    grace = workloads()["students"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > ServerSettings().graceful_termination_timeout
