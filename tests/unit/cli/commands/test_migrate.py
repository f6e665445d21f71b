"""`qcrd migrate openai`: the files and the job that an OpenAI job's files become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qcrd.cli.main import app
from qcrd.method.answers import parse_output
from qcrd.questions.rows import read_rows
from qcrd.records.base import parse_record
from qcrd.records.rationales import Question
from qcrd.records.specs.spec import JobSpec
from qcrd.records.specs.task import TaskSpec

SYSTEM = {"role": "system", "content": "Sort it."}
KINDS = ("bird", "fish")


def chat(number: int, reply: str, reasoning: str | None = None) -> dict[str, Any]:
    last = {"role": "assistant", "content": reply}
    if reasoning:
        last["reasoning_content"] = reasoning
    return {"messages": [SYSTEM, {"role": "user", "content": f"What is {number}?"}, last]}


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def migrate(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["migrate", "openai", *arguments, "--no-run"])
    return done.exit_code, done.output


@pytest.mark.parametrize(("reasoning", "method"), [(None, "finetune"), ("It swims.", "dss")])
def test_a_training_file_becomes_a_job_and_the_old_model_its_teacher(
    tmp_path: Path, reasoning: str | None, method: str
) -> None:
    train = write(tmp_path / "a.jsonl", [chat(n, KINDS[n % 2], reasoning) for n in range(20)])
    test = write(tmp_path / "b.jsonl", [chat(n, KINDS[n % 2]) for n in range(20, 24)])
    old = write(tmp_path / "c.jsonl", [chat(n, "bird") for n in range(20, 23)])
    folder = tmp_path / "out"
    code, said = migrate(
        str(train), "--test", str(test), "--answers", str(old), "--output", str(folder)
    )
    assert code == 0, said
    assert "4 held-out chats, 3 with the old model's reply" in said
    body = yaml.safe_load((folder / "job.yaml").read_text())
    parse_record(JobSpec, body)
    assert body["method"]["type"] == method
    task = TaskSpec.model_validate(body["method"][method]["task"])
    assert (task.answer, task.labels) == ("label", KINDS)
    with (folder / "test.jsonl").open("rb") as data:
        rows = list(read_rows(data))
    with train.open("rb") as data:
        trained = next(iter(read_rows(data)))
    assert rows[0].question.text == trained.question.text.replace("What is 0", "What is 20")
    assert [row.question.label for row in rows] == ["bird", "fish", "bird", "fish"]
    read = [parse_output(row.outputs[0], task, Question(id="", text="")) for row in rows[:3]]
    assert [each and each.answer for each in read] == ["bird"] * 3
    assert rows[3].outputs == ()


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train": [{"question": "a", "label": "b"}]}, "no file of OpenAI's"),
        ({"train": [chat(1, "a")], "answers": [chat(1, "a")]}, "name them with --test"),
        (
            {"train": [chat(1, "a")], "test": [chat(2, "a")], "answers": [chat(3, "a")]},
            "none of the chats",
        ),
        ({"train": [chat(1, "a")], "test": [{"text": "a"}]}, "line 1: no chat"),
    ],
)
def test_what_cannot_be_compared_is_told(
    tmp_path: Path, files: dict[str, list[dict[str, Any]]], said: str
) -> None:
    arguments = [str(write(tmp_path / "train.jsonl", files["train"]))]
    for name in ("test", "answers"):
        if name in files:
            arguments += [f"--{name}", str(write(tmp_path / f"{name}.jsonl", files[name]))]
    code, output = migrate(*arguments, "--output", str(tmp_path / "out"))
    assert code == 2
    assert said in output
