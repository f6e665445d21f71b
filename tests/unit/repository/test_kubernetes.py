"""The manifests, rendered and judged without a cluster: by Kubernetes' schemas, and by what the
code serves, reads and asks for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from qcrd.runtime.settings import (
    DiscriminatorAddress,
    EnvironmentSettings,
    LivenessSettings,
    RedisSettings,
    StoreSettings,
)
from qcrd.runtime.storage.bucket_setup import StoreAdminSettings
from services.api import worker as api_worker  # noqa: F401  its settings are then known
from services.api.settings import StudentSettings
from services.discriminator.settings import DiscriminatorSettings
from services.teacher.settings import ServerSettings
from services.teacher.students.settings import StudentsSettings
from services.trainer.settings import KubeflowSettings, NodeSettings, TrainerSettings
from services.trainer.supervision.process_outcome import EXIT_CODES
from tests import manifests
from tests.manifests import K8S, Json, of_kind, pod_templates, render

ROOT = K8S.parent
FOLDERS = ("base", "overlays/cpu-dev", "overlays/gpu-prod")
VERSIONS = ("1.36.0", "1.37.0")
OWN_KINDS = {"TrainingRuntime", "ScaledObject", "LocalQueue"}
"""Of CRDs, for which Kubernetes has no schema."""
PROGRAMS = {
    "api": "services/api",
    "discriminator": "services/discriminator",
    "students": "services/teacher/students",
    "teacher": "services/teacher/routes",
}
MINIO_PROBES = {"/minio/health/live", "/minio/health/ready"}
FOREIGN = {
    *("HF_HOME", "HF_TOKEN", "HOME", "MINIO_ROOT_PASSWORD", "MINIO_ROOT_USER", "MODELS"),
    *("NCCL_DEBUG", "REDISCLI_AUTH"),
}
"""Variables that other programs than ours read."""
SECRET = re.compile(r"(KEY|SECRET|PASSWORD|TOKEN|AUTH|REDIS_URL|ROOT_USER)S?$")
"""Variables whose values are secrets: the URL of Redis has its password."""
REDIS, STORE, JUDGES = RedisSettings, StoreSettings, DiscriminatorAddress
READ: dict[str, tuple[type[EnvironmentSettings], ...]] = {
    "api": (REDIS, STORE, JUDGES, StudentSettings),
    "api-worker": (REDIS, STORE, LivenessSettings),
    "trainer": (REDIS, STORE, JUDGES, LivenessSettings, TrainerSettings, KubeflowSettings),
    "training": (REDIS, STORE, JUDGES, TrainerSettings),
    "bucket": (STORE, StoreAdminSettings),
    "students": (STORE, JUDGES, StudentsSettings),
    "discriminator": (STORE, DiscriminatorSettings),
    "teacher": (ServerSettings,),
}
"""The settings whose values a pod has to be told, as its own defaults are those of one machine."""
PEERS = {
    "QCRD_REDIS_URL": ("redis", 6379),  # by a secret, so that its host is not looked at
    "QCRD_S3_ENDPOINT": ("minio", 9000),
    "QCRD_DISCRIMINATOR_URL": ("discriminator", 8090),
    "QCRD_STUDENTS_URL": ("students", 8070),
}
TEACHER_CLIENTS = {"api", "api-worker"}
"""Who asks what `QCRD_TEACHERS` names."""
TORCH_POLICY = {NodeSettings.get_variable(field) for field in NodeSettings.model_fields}
each_folder = pytest.mark.parametrize("folder", FOLDERS)


def known_variables(parent: type[EnvironmentSettings] = EnvironmentSettings) -> set[str]:
    found = set()
    for kind in parent.__subclasses__():
        found |= {kind.get_variable(field) for field in kind.model_fields} | known_variables(kind)
    return found


def test_every_file_is_listed() -> None:
    for listing in K8S.rglob("kustomization.yaml"):
        made = yaml.safe_load(listing.read_text())
        named = [*made.get("resources", ()), *made.get("configurations", ())]
        named += [
            f.split("=")[-1] for g in made.get("configMapGenerator", ()) for f in g.get("files", ())
        ]
        files = {path.name for path in listing.parent.iterdir() if path.is_file()}
        assert files - {"kustomization.yaml"} == {n for n in named if not n.startswith("..")}, (
            listing
        )


def distinct_objects() -> dict[str, Json]:
    """Of the overlays, which have all of the base, each once; of our CRDs' objects, the pods in
    them. By where it is."""
    found: dict[str, Json] = {}
    for folder in FOLDERS[1:]:
        for document in render(folder):
            if document["kind"] not in OWN_KINDS:
                where = f"{folder}: {document['kind']} {document['metadata']['name']}"
                found.setdefault(json.dumps(document), {"where": where, "object": document})
    training = pod_templates(render("overlays/gpu-prod"))["training"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": training["spec"]}
    return {one["where"]: one["object"] for one in found.values()} | {"training": pod}


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_schemas_accept_every_object(version: str) -> None:
    for where, document in distinct_objects().items():
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{where}: {error.message}")


@each_folder
def test_selectors_accounts_and_ports_agree(folder: str) -> None:
    documents = render(folder)
    templates = pod_templates(documents)
    accounts = {d["metadata"]["name"] for d in of_kind(documents, "ServiceAccount")}
    for workload in of_kind(documents, "Deployment", "StatefulSet"):
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for service in of_kind(documents, "Service"):
        pod = templates[service["spec"]["selector"]["app"]]["spec"]
        opened = {p["containerPort"] for c in pod["containers"] for p in c.get("ports", ())}
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= opened
    for budget in of_kind(documents, "PodDisruptionBudget"):
        assert budget["spec"]["selector"]["matchLabels"]["app"] in templates
    for template in templates.values():
        assert template["spec"]["serviceAccountName"] in accounts
    services = {d["metadata"]["name"] for d in of_kind(documents, "Service")}
    for ingress in of_kind(documents, "Ingress"):
        for rule in ingress["spec"]["rules"]:
            assert {p["backend"]["service"]["name"] for p in rule["http"]["paths"]} <= services
            assert rule["host"] in ingress["spec"]["tls"][0]["hosts"]


@each_folder
def test_no_container_is_root_or_can_become_it_or_fill_its_node(folder: str) -> None:
    for name, template in pod_templates(render(folder)).items():
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["enableServiceLinks"] is False, name
        has_api = folder == "overlays/gpu-prod" and name == "trainer"
        assert pod["automountServiceAccountToken"] is has_api, name
        for volume in pod.get("volumes", ()):
            assert "emptyDir" not in volume or volume["emptyDir"]["sizeLimit"], name
        for container in pod["containers"]:
            guard = container["securityContext"]
            assert guard["readOnlyRootFilesystem"] is True, name
            assert guard["allowPrivilegeEscalation"] is False, name
            assert guard["capabilities"] == {"drop": ["ALL"]}, name
            assert {"memory", "ephemeral-storage"} <= container["resources"]["limits"].keys(), name


@each_folder
def test_probes_hit_routes_that_the_code_serves(folder: str) -> None:
    for name, container in manifests.iter_containers(render(folder)):
        opened = {port["containerPort"] for port in container.get("ports", ())}
        served = MINIO_PROBES
        if name in PROGRAMS:
            code = "".join(p.read_text() for p in (ROOT / PROGRAMS[name]).rglob("*.py"))
            served = set(re.findall(r'\.get\(\s*"(/[\w/]+)"', code))
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            if "httpGet" in probe:
                assert probe["httpGet"]["path"] in served, (name, kind)
                assert probe["httpGet"]["port"] in opened, (name, kind)
                assert probe["timeoutSeconds"] >= 5, (name, kind)
        if name in PROGRAMS or container.get("command", [""])[0] == "celery":
            assert {"startupProbe", "livenessProbe"} <= container.keys(), name
            # Readiness may ask what a pod depends on; liveness only whether the process is stuck.
            assert "/ready" not in json.dumps(container["livenessProbe"]), name


def test_images_are_pinned_and_overlays_name_all_of_them() -> None:
    for folder in FOLDERS:
        for name, container in manifests.iter_containers(render(folder)):
            image, _, tag = container["image"].rpartition(":")
            assert image, (folder, name)
            assert tag != "latest", (folder, name)
            if image.rpartition("/")[2].startswith("qcrd-") and folder == "overlays/gpu-prod":
                assert image.startswith("registry.example/"), (folder, name)


@each_folder
def test_every_variable_is_one_that_a_program_reads(folder: str) -> None:
    known = known_variables() | FOREIGN
    for name, container in manifests.iter_containers(render(folder)):
        told = manifests.environment(render(folder), container)
        assert told.keys() <= known, name
        assert not told.keys() & TORCH_POLICY, "Kubeflow Trainer refuses a TrainJob that has them"


@each_folder
def test_every_pod_is_told_what_its_defaults_would_get_wrong(folder: str) -> None:
    """Addresses, hosts to listen on, and what has no default."""
    documents = render(folder)
    for name, container in manifests.iter_containers(documents):
        told = manifests.environment(documents, container)
        for settings in READ.get(name, ()):
            for field, info in settings.model_fields.items():
                variable = settings.get_variable(field)
                local = "127.0.0.1" in str(info.default)
                if info.is_required() or local:
                    assert variable in told, (name, variable)
        if "alive" in json.dumps(container.get("livenessProbe", {})).lower():
            assert told["QCRD_ALIVE_FILE"]["value"], name


@each_folder
def test_values_are_valid_and_secrets_are_references(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = render(folder)
    for name, container in manifests.iter_containers(documents):
        told = manifests.environment(documents, container)
        for variable, entry in told.items():
            if SECRET.search(variable):
                assert "secretKeyRef" in entry.get("valueFrom", {}), (name, variable)
        with monkeypatch.context() as environment_of_pod:
            for variable, entry in told.items():
                if "value" in entry:
                    environment_of_pod.setenv(variable, entry["value"])
            for settings in READ.get(name, ()):
                settings()


@each_folder
def test_configured_hosts_are_services_or_outside(folder: str) -> None:
    documents = render(folder)
    services = {d["metadata"]["name"] for d in of_kind(documents, "Service")}
    for name, container in manifests.iter_containers(documents):
        told = manifests.environment(documents, container)
        for variable, (service, port) in PEERS.items():
            address = told.get(variable, {}).get("value", "")
            if f"{service}:{port}" in address and name in READ:
                overridden = service == "redis" and folder == "overlays/gpu-prod"
                assert service in services or overridden, (name, variable)


@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_network_policies_have_every_edge_and_no_other(folder: str) -> None:
    documents = render(folder)
    policies = of_kind(documents, "NetworkPolicy")
    assert any(
        p["spec"]["podSelector"] == {} and p["spec"]["policyTypes"] == ["Ingress", "Egress"]
        for p in policies
    ), "nothing is denied"
    templates = pod_templates(documents)
    ports = {**dict(PEERS.values()), "teacher": 8080}
    for source in READ.keys() & templates.keys():
        told = manifests.environment(documents, templates[source]["spec"]["containers"][0])
        read = {s.get_variable(f) for s in READ[source] for f in s.model_fields}
        edges = {
            service for variable, (service, _) in PEERS.items() if variable in read & told.keys()
        }
        edges |= {"teacher"} if source in TEACHER_CLIENTS else set()
        # Its own address, which it serves.
        edges.discard(source)
        for target, port in ports.items():
            if target not in templates:
                continue
            ends: tuple[Json, Json] = ({"app": source}, {"app": target})
            out = manifests.allows(policies, *ends, port, "egress")
            into = manifests.allows(policies, *reversed(ends), port, "ingress")
            assert (out, into) == (target in edges, target in edges), (source, target)
    if "training" in templates:
        rank = {"app": "training"}
        for port in (29400, 41234):  # the rendezvous, and any of gloo's
            assert manifests.allows(policies, rank, rank, port, "egress")
            assert manifests.allows(policies, rank, rank, port, "ingress")


def test_jobs_are_gone_before_they_are_applied_again() -> None:
    """The pod template of a Job that is there cannot be changed, by another tag for instance."""
    for folder in FOLDERS:
        for job in of_kind(render(folder), "Job"):
            assert 0 < job["spec"]["ttlSecondsAfterFinished"] <= 600, job["metadata"]["name"]


def test_grace_periods_are_longer_than_what_they_wait_for() -> None:
    templates = pod_templates(render("overlays/gpu-prod"))
    grace = {
        name: t["spec"].get("terminationGracePeriodSeconds", 30) for name, t in templates.items()
    }
    for name in ("teacher", "students"):
        pause = templates[name]["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert grace[name] > pause + ServerSettings().graceful_termination_timeout

    def read_grace(name: str) -> float:
        env = templates[name]["spec"]["containers"][0]["env"]
        (told,) = (float(entry["value"]) for entry in env if entry["name"] == "QCRD_GRACE_SECONDS")
        return told

    assert grace["training"] > read_grace("training")
    # The lease goes when the worker stops waiting, and with it the checkpoint.
    assert grace["trainer"] > read_grace("trainer") >= read_grace("training")


def test_a_local_trainer_outlives_its_training_processes() -> None:
    trainer = pod_templates(render("overlays/cpu-dev"))["trainer"]
    assert trainer["spec"]["terminationGracePeriodSeconds"] > TrainerSettings().grace_seconds


def test_the_runtime_is_what_kubeflow_trainer_looks_for() -> None:
    (runtime,) = of_kind(render("overlays/gpu-prod"), "TrainingRuntime")
    assert runtime["metadata"]["labels"]["trainer.kubeflow.org/framework"] == "torch"
    assert runtime["metadata"]["name"] == KubeflowSettings().runtime
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == "node"
    step = node["template"]["metadata"]["labels"]["trainer.kubeflow.org/trainjob-ancestor-step"]
    assert step == "trainer"
    assert [c["name"] for c in node["template"]["spec"]["template"]["spec"]["containers"]] == [
        "node"
    ]
    rules = node["template"]["spec"]["podFailurePolicy"]["rules"]
    assert rules[0]["onExitCodes"]["values"] == [EXIT_CODES["failed"]]


def test_gpus_are_where_it_trains_and_judges_and_nowhere_else() -> None:
    with_gpu = {
        name
        for name, container in manifests.iter_containers(render("overlays/gpu-prod"))
        if "nvidia.com/gpu" in container["resources"]["limits"]
    }
    assert with_gpu == {"training", "discriminator", "teacher"}
    for name, template in pod_templates(render("overlays/gpu-prod")).items():
        tolerated = {t["key"] for t in template["spec"].get("tolerations", ())}
        assert (tolerated == {"nvidia.com/gpu"}) == (name in with_gpu), name


def test_workers_are_scaled_by_jobs_that_want_one() -> None:
    documents = render("overlays/gpu-prod")
    tasks = {"trainer": "train", "api-worker": "assemble"}
    scaled = {d["metadata"]["name"]: d["spec"] for d in of_kind(documents, "ScaledObject")}
    assert scaled.keys() == tasks.keys()
    for name, spec in scaled.items():
        (trigger,) = spec["triggers"]
        assert trigger["type"] == "prometheus", "a Redis list is empty while a job trains"
        assert trigger["metadata"]["query"] == f'max(qcrd_jobs_wanted{{task="{tasks[name]}"}})'
        assert spec["scaleTargetRef"]["name"] == name
        (deployment,) = (
            d for d in of_kind(documents, "Deployment") if d["metadata"]["name"] == name
        )
        assert "replicas" not in deployment["spec"], "KEDA's number would be overwritten"


def test_what_holds_the_jobs_is_evicted_last() -> None:
    documents = render("overlays/gpu-prod")
    values = {d["metadata"]["name"]: d["value"] for d in of_kind(documents, "PriorityClass")}
    named = {
        name: template["spec"].get("priorityClassName")
        for name, template in pod_templates(documents).items()
    }
    assert {name for name, given in named.items() if given} == {
        *("api", "students", "teacher", "discriminator")
    }
    assert {given for given in named.values() if given} == {"qcrd-serving"}
    assert values["qcrd-state"] > values["qcrd-serving"] > 0
    made = yaml.safe_load((K8S / "components/priority/kustomization.yaml").read_text())
    targets = {name for p in made["patches"] for name in p["target"]["name"].split("|")}
    base = of_kind(render("base"), "Deployment", "StatefulSet")
    assert targets <= {d["metadata"]["name"] for d in base}


def test_the_namespace_is_restricted() -> None:
    (namespace,) = of_kind(render("base"), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_component_is_in_an_overlay_and_on_the_page() -> None:
    page = (ROOT / "docs/kubernetes.md").read_text()
    used: set[Any] = set()
    for overlay in (K8S / "overlays").iterdir():
        made = yaml.safe_load((overlay / "kustomization.yaml").read_text())
        used |= {Path(component).name for component in made["components"]}
    components = {path.name for path in (K8S / "components").iterdir()}
    assert components == used
    for component in components:
        assert f"`{component}`" in page, component
