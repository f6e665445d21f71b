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
SUMS = "".join(f'{{"question": "{n} + 1?", "label": "{n + 1}"}}\n' for n in range(6))


def spec(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["spec", *arguments])
    return done.exit_code, done.output


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (("", ""), 0, "is a job without a fault"),
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
    (tmp_path / "train.jsonl").write_text(SUMS)
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace(*change) if change[0] else JOB)
    found, output = spec("validate", str(path))
    assert (found, said in output) == (code, True), output


def test_a_study_is_checked_as_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(SUMS)
    job = "\n".join(f"  {line}" for line in JOB.splitlines())
    path = tmp_path / "study.yaml"
    path.write_text(f"job:\n{job}\nmethods: [finetune, qcrd]\nseeds: [0]\nbaseline: finetune\n")
    code, output = spec("validate", str(path))
    assert code == 0, output
    assert "is a study without a fault" in output


def test_the_files_are_read_as_the_job_would(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    (tmp_path / "train.jsonl").write_text(SUMS + '{"question": "seven?", "label": "many"}')
    code, output = spec("validate", str(path))
    assert code == 2
    assert "line 7: label 'many' is not a number" in output
    assert spec("validate", str(path), "--no-read")[0] == 0
    other = tmp_path / "other.jsonl"
    other.write_text(SUMS)
    code, output = spec("validate", str(path), "--data", str(other))
    assert code == 0, output
    assert "training_file: 6 records read, 6 questions, 6 labelled" in output
    assert "the student is asked 'predict: 0 + 1?' and learns '1'" in output
    path.write_text(JOB.replace("number}", "number}, student: {answers: reasoned}"))
    code, output = spec("validate", str(path), "--data", str(other))
    assert code == 0, output
    assert "'explain: 0 + 1?' and learns 'an explanation of the teacher answer: 1'" in output
    assert "predict:" not in output


def test_a_file_that_is_uploaded_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace("train.jsonl", f"file-{'a' * 24}"))
    code, output = spec("validate", str(path))
    assert code == 0, output
    assert "is on the server" in output


def chat(n: int, **more: str) -> str:
    reply = {"role": "assistant", "content": f"{n + 1}", **more}
    return json.dumps({"messages": [{"role": "user", "content": f"{n} + 1?"}, reply]}) + "\n"


@pytest.mark.parametrize(
    ("more", "request_", "told"),
    [
        ({}, {"method": {"type": "supervised"}}, ("type: finetune", "max_label_tokens: 32")),
        ({}, {"hyperparameters": {"n_epochs": 3}}, ("type: finetune", "iterations: 3")),
        ({}, {"integrations": []}, ("type: finetune",)),
        ({}, {}, ("type: finetune",)),
        (
            {"reasoning_content": "One more."},
            {"method": {"type": "supervised"}, "suffix": "a", "validation_file": None},
            ("type: dss", "import: train.jsonl", "rationales: 6 read, 0 unread", "'One more.'"),
        ),
    ],
)
def test_a_request_of_openai_says_what_it_becomes(
    tmp_path: Path, more: dict[str, str], request_: dict[str, object], told: tuple[str, ...]
) -> None:
    (tmp_path / "train.jsonl").write_text("".join(chat(n, **more) for n in range(6)))
    path = tmp_path / "body.json"
    body = {"model": "gpt-4o-mini", "training_file": "train.jsonl", **request_}
    path.write_text(json.dumps(body))
    code, output = spec("validate", str(path))
    assert code == 0, output
    for each in ("a request of OpenAI's, which becomes", *told, "6 records read"):
        assert each in output


def test_a_request_that_is_refused_says_why(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(chat(n) for n in range(6)))
    path = tmp_path / "body.json"
    body = {"model": "a", "training_file": "train.jsonl", "method": {"type": "dpo"}}
    path.write_text(json.dumps(body))
    code, output = spec("validate", str(path))
    assert (code, "`dpo` is not offered here" in output) == (2, True)


def test_the_schema_and_the_page_are_printed() -> None:
    assert json.loads(spec("schema")[1])["title"] == "qcrd job"
    assert spec("reference")[1].startswith("# The spec of a job")
