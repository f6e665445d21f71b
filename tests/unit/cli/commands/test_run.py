"""`qcrd run` against a scripted gateway over real HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from qcrd.cli.connect import INTERVALS
from qcrd.cli.main import app
from qcrd.client.gateway import Intervals
from tests.fakes.scripted_gateway import ESTIMATE, JOB, MODEL, REPORT, ScriptedGateway, event

SPEC: dict[str, Any] = {
    "model": "all-MiniLM-L6-v2",
    "training_file": "train.jsonl",
    "test_file": "test.jsonl",
    "method": {"type": "qcrd", "qcrd": {"rationales": {"n": 2, "import": "train.jsonl"}}},
}

SHORT = Intervals(poll_job=0.05, poll_study=0.02, reconnect=0.01, create_retries=(0.0, 0.0))


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedGateway]:
    scripted = ScriptedGateway()
    monkeypatch.setenv("QCRD_API_URL", scripted.url)
    monkeypatch.setenv("QCRD_HOME", str(tmp_path / "home"))
    yield scripted
    scripted.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spec with its two files."""
    (tmp_path / "train.jsonl").write_text('{"question": "a", "label": "b"}\n')
    (tmp_path / "test.jsonl").write_text('{"question": "c", "label": "d"}\n')
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    return tmp_path


def qcrd(*arguments: object) -> Result:
    """The command's result, with hardly a pause between its requests."""
    context = copy_context()
    context.run(INTERVALS.set, SHORT)
    return context.run(CliRunner().invoke, app, [str(argument) for argument in arguments])


def test_a_job_from_its_yaml_to_its_report(gateway: ScriptedGateway, folder: Path) -> None:
    running = gateway.job("running")
    gateway.looks = [running, running, gateway.job("succeeded", report=REPORT)]
    result = qcrd("run", folder / "spec.yaml", "--report", folder / "out" / "report.json")
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "out" / "report.json").read_text()) == REPORT
    (body,) = gateway.bodies
    assert len(gateway.uploads) == 2
    assert body["training_file"] == body["method"]["qcrd"]["rationales"]["import"]
    assert body["training_file"].startswith("file-")
    assert body["test_file"] != body["training_file"]
    # In the report's order: the teacher first, compute relative to the job's own method.
    lines = result.stdout.splitlines()
    rows = [
        line for line in lines if "0.800 to" in line or "0.600 to" in line or "0.700 to" in line
    ]
    assert [row.split("│")[1].strip() for row in rows] == [
        "teacher",
        "finetuning, equal steps",
        "QCRD",
    ]
    assert "0.50 ×" in rows[1]
    assert "all 200 teacher outputs were reused: 0 teacher tokens" in result.stdout
    assert f"qcrd models chat {MODEL}" in result.stdout
    assert "the judge saw few negatives" in result.stdout
    assert "AUC 0.75 after pretraining (40 positives, 9 of the teacher's minority)" in result.stdout


def test_a_lost_creation_is_tried_again_under_the_same_key(
    gateway: ScriptedGateway, folder: Path
) -> None:
    gateway.lose = 2
    assert qcrd("run", folder / "spec.yaml").exit_code == 0
    tries = [key for key in gateway.keys if key is not None]
    assert (len(tries), len(set(tries))) == (3, 1)
    assert len(gateway.bodies) == 1


def test_an_estimate_creates_no_job_and_fails_over_the_budget(
    gateway: ScriptedGateway, folder: Path
) -> None:
    shown = qcrd("estimate", folder / "spec.yaml")
    assert shown.exit_code == 1
    for text in (
        "20 of 30",
        "at most 5,120",
        "at most 0.0123 EUR",
        "not known yet",
        "tokenized",
        "25% of the training",
    ):
        assert text in shown.stdout
    assert gateway.bodies == []
    as_json = qcrd("estimate", folder / "spec.yaml", "--json")
    assert json.loads(as_json.stdout) == ESTIMATE


def test_files_are_looked_for_in_the_data_folder(gateway: ScriptedGateway, folder: Path) -> None:
    data = folder / "data"
    data.mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).rename(data / name)
    assert qcrd("run", folder / "spec.yaml").exit_code == 2
    assert qcrd("run", folder / "spec.yaml", "--data", data).exit_code == 0


def test_a_broken_stream_is_taken_up_and_no_event_shown_twice(
    gateway: ScriptedGateway, folder: Path
) -> None:
    running = gateway.job("running")
    gateway.looks = [running] * 6 + [gateway.job("succeeded", report=REPORT)]
    gateway.streams = [
        [event(1, "first"), event(2, "second")],
        [event(3, "third", status="succeeded")],
        [],
    ]
    result = qcrd("run", folder / "spec.yaml")
    assert result.exit_code == 0, result.output
    assert gateway.resumed_from[:2] == [None, "1000-2"]
    for message in ("first", "second", "third"):
        assert result.stderr.count(message) == 1, result.stderr


def test_a_job_that_fails_is_exit_code_1(gateway: ScriptedGateway, folder: Path) -> None:
    error = {"message": "the loss left its bounds", "code": "diverged", "param": None}
    gateway.looks = [gateway.job("failed", error=error)]
    result = qcrd("run", folder / "spec.yaml", "--report", folder / "report.json")
    assert result.exit_code == 1
    assert "the loss left its bounds" in result.stderr
    assert not (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"colour": "red"}, "unknown key `colour`"),
        ({"seeed": 1}, "unknown key `seeed`: did you mean `seed`?"),
        (
            {"method": {"type": "qcrd", "qcrd": {"rationales": {"nn": 1}}}},
            "qcrd.rationales.nn`: did you mean `n`?",
        ),
        ({"method": {"type": "qcrd", "qcrd": {"rationales": {"m": 1}}}}, "qcrd.rationales.m"),
        ({"method": {"type": "qcrd", "qcrd": {"rationales": {"n": 0}}}}, "qcrd.rationales.n"),
        (
            {"method": {"type": "qcrd", "qcrd": {"rationales": {"temperature": -1}}}},
            "qcrd.rationales.temperature",
        ),
        ({"method": {"type": "magic"}}, "method.type"),
        ({"training_file": 7}, "training_file"),
        ({"training_file": "none.jsonl"}, "`training_file`: there is no file"),
        ({"validation_file": "none.jsonl"}, "`validation_file`: there is no file"),
        ({"test_file": "empty.jsonl"}, "is empty"),
        (
            {"method": {"type": "qcrd", "qcrd": {"rationales": {"import": "none.jsonl"}}}},
            "`method.qcrd.rationales.import`: there is no file",
        ),
    ],
)
def test_a_wrong_spec_is_refused_before_anything_is_sent(
    gateway: ScriptedGateway, folder: Path, change: dict[str, Any], said: str
) -> None:
    (folder / "empty.jsonl").touch()
    (folder / "spec.yaml").write_text(yaml.safe_dump(SPEC | change))
    result = qcrd("run", folder / "spec.yaml")
    assert (result.exit_code, gateway.requests) == (2, [])
    assert said in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"a: [1", "spec.yaml, line 1"),
        (b"- 1\n- 2\n", "holds no job"),
        (b"", "holds no job"),
        (b"model: \xff\xfe", "not UTF-8"),
        (None, "cannot read"),
    ],
)
def test_a_spec_that_cannot_be_read(folder: Path, text: bytes | None, said: str) -> None:
    spec = folder / "spec.yaml"
    spec.unlink()
    if text is not None:
        spec.write_bytes(text)
    result = qcrd("run", spec)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_data_folder_that_is_missing_or_empty(folder: Path) -> None:
    missing = qcrd("run", folder / "spec.yaml", "--data", folder / "nowhere")
    assert (missing.exit_code, "there is no folder" in missing.stderr) == (2, True)
    (folder / "bare").mkdir()
    empty = qcrd("run", folder / "spec.yaml", "--data", folder / "bare")
    assert (empty.exit_code, "is empty" in empty.stderr) == (2, True)


def test_a_report_that_cannot_be_written_is_told_before_the_job(
    gateway: ScriptedGateway, folder: Path
) -> None:
    result = qcrd("run", folder / "spec.yaml", "--report", folder)
    assert (result.exit_code, gateway.requests) == (2, [])
    assert "--report" in result.stderr


def test_the_gateway_s_own_words_reach_the_user(gateway: ScriptedGateway, folder: Path) -> None:
    envelope = {"message": "line 3: not JSON", "param": "file", "code": "broken_line"}
    gateway.refuse = (400, {"error": envelope})
    result = qcrd("run", folder / "spec.yaml")
    assert result.exit_code == 2
    assert result.stderr == "error: train.jsonl: line 3: not JSON (field `training_file`)\n"


def test_nobody_at_the_address(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = qcrd("run", folder / "spec.yaml", "--api", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "qcrd up" in result.stderr
    assert qcrd("jobs", "list", "--api", "somewhere").exit_code == 2


def test_ctrl_c_stops_following_and_not_the_job(gateway: ScriptedGateway, folder: Path) -> None:
    gateway.looks = [gateway.job("running")]
    # A shell starts what is in its background with SIGINT ignored, and pytest may be that.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from qcrd.cli.main import app; app()"
    )
    command = [sys.executable, "-c", program, "run", "spec.yaml"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while not gateway.resumed_from:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert f"qcrd jobs cancel {JOB}" in said
    assert f"qcrd jobs events {JOB} --follow" in said
    assert "Traceback" not in said
    assert not any(path.endswith("/cancel") for _, path in gateway.requests)
