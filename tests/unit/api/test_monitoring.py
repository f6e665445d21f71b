"""The dashboard asks for metrics that there are, and doctor reads the same ones."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from qcrd.cli.gateway_metrics import check_samples, parse_metrics
from qcrd.records.job import Job, JobStatus, Usage
from qcrd.records.specs.spec import Budget, JobSpec
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.counters import COUNTER_HELP, observe_stage_seconds
from services.api.assembling.teacher.teacher_check import note_finding
from services.api.dependencies import Gateway, get_service
from services.api.job_metrics import ActiveJobsCollector, compute_budget_share
from tests import serving
from tests.unit.api.gateway_client import Here, sums
from tests.unit.cli.commands.test_run import qcrd

ROOT = Path(__file__).parents[3]
COMPONENT = ROOT / "k8s/components/monitoring"
ALERTS = yaml.safe_load((ROOT / "monitoring/alerts.yaml").read_text())["groups"][0]["rules"]
NAME = re.compile(r"\b(?:qcrd|process)_[a-z_]+")


def shown(here: Here) -> str:
    """The gateway's metrics once everything has happened once."""
    tally = get_service(here.app, Gateway).shared.counters
    for name in COUNTER_HELP:
        if name == "stage_seconds":
            observe_stage_seconds(tally, "training", 2.0)
        elif name == "teacher_tokens":
            tally.increment(name, 5.0, teacher="default", kind="prompt")
        else:
            tally.increment(name)
    here.create(here.file(sums(5)))
    return here.client.get("/metrics").text


def test_every_metric_of_the_dashboard_is_served(here: Here) -> None:
    dashboard = json.loads((COMPONENT / "dashboard.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in NAME.findall(target["expr"])
    }
    served = set(parse_metrics(shown(here)))
    assert asked - served == set()
    assert {f"qcrd_{name}_total" for name in COUNTER_HELP if name != "stage_seconds"} <= asked


def test_every_metric_of_the_alerts_is_served(here: Here) -> None:
    """Redis's memory is told by a gateway that has one, which this has not."""
    here.client.get("/ready")
    served = set(parse_metrics(shown(here)))
    asked = {name for rule in ALERTS for name in NAME.findall(rule["expr"])}
    of_redis = {"qcrd_redis_memory_used_bytes", "qcrd_redis_memory_limit_bytes"}
    assert asked - served - of_redis == set()
    assert {"qcrd_ready", "qcrd_job_waiting_seconds", "qcrd_job_budget_used_ratio"} <= asked


def test_every_alert_says_what_to_do_and_is_fired_by_a_test() -> None:
    fired = (ROOT / "monitoring/alerts_test.yaml").read_text()
    for rule in ALERTS:
        assert rule["annotations"].keys() == {"summary", "action"}
        assert f'alertname="{rule["alert"]}"' in fired
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("no promtool here; it is in Debian's package prometheus")
    command = [promtool, "test", "rules", "alerts_test.yaml"]
    subprocess.run(command, cwd=ROOT / "monitoring", check=True)


def test_prometheus_asks_ports_that_services_open() -> None:
    config = yaml.safe_load((ROOT / "monitoring/prometheus.yaml").read_text())
    asked = {c["job_name"]: c["static_configs"][0]["targets"] for c in config["scrape_configs"]}
    opened = re.findall(r"^(?:EXPOSE|ENV .*PORT=)\s*(\d+)", (ROOT / "Dockerfile").read_text(), re.M)
    for job, (target,) in asked.items():
        host, port = target.split(":")
        assert job in (f"qcrd-{host}", host)
        assert host in ("disks", "students") or port in opened


def test_how_near_a_job_is_to_its_budget() -> None:
    """The higher of both shares, with what may have been spent: (30 + 10 + 20) / 100 and 1 / 4."""
    spec = JobSpec(model="tiny", training_file="file-" + "0" * 24)
    usage = Usage(
        teacher_prompt_tokens=30,
        teacher_completion_tokens=10,
        uncertain=20,
        cost=0.5,
        uncertain_cost=0.5,
    )
    job = Job(
        id="ftjob-" + "a" * 24,
        spec=spec,
        status=JobStatus.RUNNING,
        created_at=0.0,
        usage=usage,
        waiting="the store",
        waiting_since=time.time() - 50,
    )
    assert compute_budget_share(job) == 0.0
    limited = job.model_copy(update={"budget": Budget(teacher_tokens=100, cost=4.0)})
    assert compute_budget_share(limited) == 0.6
    jobs = MemoryJobStore()
    jobs.create(limited)
    families = {family.name: family for family in ActiveJobsCollector(jobs).collect()}
    assert families["qcrd_job_budget_used_ratio"].samples[0].value == 0.6
    assert 50 <= families["qcrd_job_waiting_seconds"].samples[0].value < 5000


def test_the_component_names_files_that_are_there() -> None:
    made = yaml.safe_load((COMPONENT / "kustomization.yaml").read_text())
    for generator in made["configMapGenerator"]:
        for file in generator["files"]:
            assert (COMPONENT / file.split("=")[-1]).is_file()


def test_doctor_says_what_the_metrics_say(here: Here) -> None:
    told = {finding.what: finding for finding in check_samples(parse_metrics(shown(here)))}
    assert told["jobs"].detail == "1 queued"
    assert told["waiting jobs"].detail == "1 for assemble, 0 for train"
    assert told["teacher tokens"].detail == "5 paid by all jobs"
    assert told["recoveries"].state == "advice"
    assert "1 leases lost" in told["recoveries"].detail
    away = [
        finding.what
        for finding in check_samples(parse_metrics("# TYPE qcrd_redis_up gauge\nqcrd_redis_up 0\n"))
    ]
    assert away == ["redis"]


def words(table: str) -> str:
    return " ".join(table.split())


def test_doctor_asks_the_gateway_that_the_environment_names(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP, with no stack here; and one that is no gateway is told, not a crash."""
    monkeypatch.setenv("QCRD_HOME", str(tmp_path))
    shown(here)
    gateway = get_service(here.app, Gateway)
    teacher = gateway.settings.teachers.teachers["default"].identify("default")
    note_finding(gateway.shared.teacher_notes, teacher, ("away", "it does not respond"))
    with serving.app(here.app) as url:
        monkeypatch.setenv("QCRD_API_URL", f"{url}/v1")
        told = words(qcrd("doctor").stdout)
        assert "jobs of QCRD_API_URL" in told
        assert "1 queued" in told
        assert "teacher default of QCRD_API_URL" in told
        assert "it does not respond" in told
        monkeypatch.setenv("QCRD_API_URL", f"{url}/nothing")
        assert "metrics of QCRD_API_URL" in words(qcrd("doctor").stdout)
