"""`qcrd spec`: what is checked without a server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qcrd.cli.main import app

JOB = """model: tiny
training_file: train.jsonl
method:
  type: qcrd
  qcrd: {task: {answer: number}}
"""


def spec(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["spec", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("", ""), 0, "is a job that a server can take"),
        (("seed", "seed"), 0, "is a job"),
        (("model: tiny", "model: tiny\nmodel: other"), 2, "line 2"),
        (("answer: number", "anser: number"), 2, "`method.qcrd.task.anser`"),
        (("train.jsonl", "none.jsonl"), 2, "there is no file"),
        (("qcrd: {", "dss: {"), 2, "`method.dss`"),
    ],
)
def test_a_job_is_checked_with_its_files(
    tmp_path: Path, change: tuple[str, str], code: int, said: str
) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "a"}')
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace(*change) if change[0] else JOB)
    found, output = spec("validate", str(path))
    assert (found, said in output) == (code, True), output


def test_a_study_is_checked_as_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"question": "a"}')
    job = "\n".join(f"  {line}" for line in JOB.splitlines())
    path = tmp_path / "study.yaml"
    path.write_text(f"job:\n{job}\nmethods: [finetune, qcrd]\nseeds: [0]\nbaseline: finetune\n")
    code, output = spec("validate", str(path))
    assert code == 0, output
    assert "is a study that a server can take" in output


def test_the_schema_and_the_page_are_printed() -> None:
    assert json.loads(spec("schema")[1])["title"] == "qcrd job"
    assert spec("reference")[1].startswith("# The spec of a job")
