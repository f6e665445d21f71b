"""The commands against the real gateway: an imitation takes parameters that it refuses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qcrd.cli.main import app
from tests import serving
from tests.unit.api.gateway_client import TASK, Here, lines, published, sums


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path / "models")


@pytest.fixture
def url(here: Here) -> Iterator[str]:
    with serving.app(here.app) as url:
        yield url


def qcrd(url: str, *arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments, "--api", url])
    assert done.exit_code == 0, done.output
    return done.output


def test_models_are_listed(here: Here, url: str) -> None:
    model = published(here.store)
    assert model.id in qcrd(url, "models", "list")
    assert [each["id"] for each in json.loads(qcrd(url, "models", "list", "--json"))] == [model.id]


def test_jobs_are_listed_shown_and_told(here: Here, url: str) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    assert job in qcrd(url, "jobs", "list")
    assert job in qcrd(url, "jobs", "show", job)
    assert "job created" in qcrd(url, "jobs", "events", job)
    qcrd(url, "jobs", "pause", job)
    qcrd(url, "jobs", "resume", job)
    qcrd(url, "jobs", "cancel", job)
    qcrd(url, "jobs", "delete", job)


def test_studies_are_listed_and_shown(here: Here, url: str) -> None:
    job = {
        "model": "tiny",
        "training_file": here.file(sums(8)),
        "method": {"type": "qcrd", "qcrd": TASK},
    }
    body = {"job": job, "methods": ["finetune", "dss"], "seeds": [0], "baseline": "finetune"}
    made = here.client.post("/v1/studies", json=body)
    assert made.status_code == 200, made.text
    study = made.json()["id"]
    assert study in qcrd(url, "studies", "list")
    assert "finetune 0 of 1" in qcrd(url, "studies", "show", study)
    qcrd(url, "studies", "cancel", study)


def test_a_job_is_estimated(tmp_path: Path, url: str) -> None:
    (tmp_path / "train.jsonl").write_bytes(lines(sums(6)))
    spec = tmp_path / "job.yaml"
    spec.write_text(
        "model: tiny\ntraining_file: train.jsonl\n"
        "method: {type: finetune, finetune: {task: {answer: number}}}\n"
    )
    assert "training steps" in qcrd(url, "estimate", str(spec))
