"""The dashboard asks for metrics that there are, and doctor reads the same ones."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from qcrd.cli.gateway_metrics import check_samples, parse_metrics
from qcrd.runtime.redis.counters import COUNTER_HELP, observe_stage_seconds
from services.api.assembling.teacher.teacher_check import note_finding
from services.api.dependencies import Gateway, get_service
from tests import serving
from tests.unit.api.gateway_client import Here, sums
from tests.unit.cli.commands.test_run import qcrd

COMPONENT = Path(__file__).parents[3] / "k8s/components/monitoring"
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
