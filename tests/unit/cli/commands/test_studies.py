"""`qcrd study` and `qcrd studies` against a scripted gateway over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from qcrd.cli.output.study_progress import format_job_state, open_study_display
from tests.fakes.scripted_gateway import STUDY, ScriptedGateway
from tests.unit.cli.commands.test_run import SPEC, qcrd

STUDY_SPEC: dict[str, Any] = {"job": SPEC, "methods": ["qcrd", "finetune"], "baseline": "finetune"}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedGateway]:
    scripted = ScriptedGateway()
    monkeypatch.setenv("QCRD_API_URL", scripted.url)
    monkeypatch.setenv("QCRD_HOME", str(tmp_path / "home"))
    yield scripted
    scripted.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_text('{"question": "a", "label": "b"}\n')
    (tmp_path / "test.jsonl").write_text('{"question": "c", "label": "d"}\n')
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY_SPEC))
    return tmp_path


def test_a_study_from_its_yaml_to_its_table(gateway: ScriptedGateway, folder: Path) -> None:
    running = gateway.study("running", {"method": "qcrd"}, {"method": "dss", "status": "queued"})
    gateway.studies = [running, running, gateway.study("succeeded")]
    report, plot = folder / "out/table.json", folder / "out/plot.svg"
    result = qcrd("study", folder / "study.yaml", "--report", report, "--plot", plot)
    assert result.exit_code == 0, result.output
    assert json.loads(report.read_text()) == {"measured": "test"}
    assert plot.read_text() == "<svg/>"
    assert result.stdout == "| qcrd [1] |\n"
    assert "1 of 2 running, 1 of 2 queued; qcrd, seed 0: training 50 %" in result.stderr
    assert "1 of the 5 seeds that it takes to tell which method is better" in result.stderr
    (body,) = gateway.bodies
    assert (body["methods"], body["baseline"]) == (["qcrd", "finetune"], "finetune")
    job = body["job"]
    assert len(gateway.uploads) == 2
    assert job["training_file"].startswith("file-")
    assert job["training_file"] == job["method"]["qcrd"]["rationales"]["import"]


def test_jobs_that_failed_are_told_and_are_exit_code_1(
    gateway: ScriptedGateway, folder: Path
) -> None:
    failed = {"status": "failed", "error": "the loss left its bounds", "seed": 3}
    gateway.studies = [gateway.study("incomplete", {"status": "succeeded"}, failed)]
    result = qcrd("study", folder / "study.yaml", "--report", folder / "table.json")
    assert result.exit_code == 1
    assert "qcrd, seed 3" in result.stderr
    assert "failed: the loss left its bounds" in result.stderr
    assert f"the study {STUDY} is incomplete" in result.stderr
    assert "| qcrd [1] |" in result.stdout
    assert (folder / "table.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"methods": ["qcrd", "magic"]}, "`methods.1`"),
        ({"methods": ["qcrd"]}, "`baseline`: 'finetune' is none of the study's methods"),
        ({"seeds": [1, 1]}, "`seeds.1`: 1 is there twice"),
        ({"colour": "red"}, "unknown key `colour`"),
        ({"job": {**SPEC, "training_file": "none.jsonl"}}, "`job.training_file`: there is no file"),
        ({"job": {**SPEC, "colour": "red"}}, "unknown key `job.colour`"),
        ({"job": None}, "`job`"),
    ],
)
def test_a_wrong_study_is_refused_before_anything_is_sent(
    gateway: ScriptedGateway, folder: Path, change: dict[str, Any], said: str
) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY_SPEC | change))
    result = qcrd("study", folder / "study.yaml")
    assert (result.exit_code, gateway.requests) == (2, [])
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_job_in_the_line_says_what_it_waits_for() -> None:
    job = {"status": "queued", "stage": "assembling", "percent": 0.0, "waiting": "no set yet"}
    assert format_job_state(job) == "queued, waiting: no set yet"
    assert format_job_state({**job, "waiting": None}) == "queued"


def test_a_job_is_no_study(gateway: ScriptedGateway, folder: Path) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(SPEC))
    result = qcrd("study", folder / "study.yaml")
    assert (result.exit_code, gateway.requests) == (2, [])
    assert "qcrd run" in result.stderr


def test_a_plot_that_cannot_be_written_is_told_first(
    gateway: ScriptedGateway, folder: Path
) -> None:
    result = qcrd("study", folder / "study.yaml", "--plot", folder)
    assert (result.exit_code, gateway.requests) == (2, [])
    assert "--plot" in result.stderr


def test_studies_are_listed_shown_cancelled_and_resumed(gateway: ScriptedGateway) -> None:
    gateway.studies = [gateway.study("running", {}, {"status": None, "error": "was never created"})]
    assert STUDY in qcrd("studies", "list").stdout
    assert json.loads(qcrd("studies", "list", "--json").stdout)[0]["id"] == STUDY
    shown = qcrd("studies", "show", STUDY)
    assert "training 50 %" in shown.stdout
    assert "missing" in shown.stdout
    assert "| qcrd [1] |" in shown.stdout
    assert "was never created" in shown.stderr
    assert json.loads(qcrd("studies", "show", STUDY, "--json").stdout)["id"] == STUDY
    assert "is failed" in qcrd("studies", "cancel", STUDY).stderr
    assert "is running" in qcrd("studies", "resume", STUDY).stderr


def test_a_terminal_has_a_bar_per_job(gateway: ScriptedGateway) -> None:
    console = Console(force_terminal=True, width=100, record=True)
    waiting = {"id": "b", "method": "dss", "waiting": "no set yet"}
    with open_study_display(console) as shown:
        shown.show_outage("nothing answers")
        shown.show_study(gateway.study("running", {}, waiting))
    text = console.export_text()
    assert "nothing answers; retrying" in text
    assert "qcrd, seed 0" in text
    assert "training 50 %, waiting: no set yet" in text
