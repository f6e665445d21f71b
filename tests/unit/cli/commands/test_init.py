"""`qcrd init`: what files people have it reads, and the job that it writes for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qcrd.cli.main import app
from qcrd.questions.rows import QuestionRow, read_rows
from qcrd.records.base import parse_record
from qcrd.records.specs.spec import JobSpec

WORDS = ("cat", "dog", "trout", "lynx", "rook", "newt", "mole", "swan")


def init(data: Path, *options: str) -> tuple[str, dict[str, Any]]:
    """What is said, and the job."""
    output = data.parent / "job.yaml"
    done = CliRunner().invoke(app, ["init", str(data), "--yes", "--output", str(output), *options])
    assert done.exit_code == 0, done.output
    body: dict[str, Any] = yaml.safe_load(output.read_text())
    parse_record(JobSpec, {**body, "training_file": "file-a"})
    return done.output, body


def read(data: Path, body: dict[str, Any]) -> list[QuestionRow]:
    with data.open("rb") as file:
        return list(read_rows(file, body["method"]["qcrd"]["task"].get("fields")))


def write(folder: Path, make: Any, count: int = 60, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(make(n)) + "\n" for n in range(count)))
    return path


@pytest.mark.parametrize(
    ("make", "answer", "question", "label"),
    [
        (lambda n: {"question": f"{n}?", "label": WORDS[n % 2]}, "label", "1?", "dog"),
        (lambda n: {"question": f"{n}?", "answer": f"{n}.5"}, "number", "1?", "1.5"),
        (lambda n: {"text": f"t{n}", "label": n % 3}, "label", "t1", "1"),
        (lambda n: {"Question": f"{n}?", "Answer": n * 7}, "number", "1?", "7"),
        (
            lambda n: {"premise": f"p{n}", "hypothesis": f"h{n}", "label": n % 3, "idx": n},
            "label",
            "Premise: p1\nHypothesis: h1",
            "1",
        ),
        (
            lambda n: {"Body": f"b{n}.", "Question": "How many?", "Answer": float(n)},
            "number",
            "b1. How many?",
            "1",
        ),
        (
            lambda n: {
                "instruction": f"do {n}",
                "input": "",
                "output": f"{WORDS[n % 8]} {n}x",
            },
            "text",
            "do 1",
            "dog 1x",
        ),
        (
            lambda n: {"question": f"{n}?", "choices": {"text": ["a", "b"]}, "answerKey": "B"},
            "choice",
            "1?",
            "B",
        ),
        (
            lambda n: {"question": f"{n}?", "A": "oar", "B": "net", "answer": "A"},
            "choice",
            "1?",
            "A",
        ),
        (
            lambda n: {"goal": f"{n}?", "sol1": "x", "sol2": "y", "label": n % 2},
            "choice",
            "1?",
            "y",
        ),
        (
            lambda n: {"sentence": f"{n}?", "option1": "x", "option2": "y", "answer": str(n % 2)},
            "choice",
            "1?",
            "y",
        ),
        (
            lambda n: {"context": f"c{n}", "question": "?", "answers": {"text": [f"a{n}", "b"]}},
            "text",
            "c1\n\n?",
            "a1",
        ),
        (lambda n: {"question": f"{n}?", "answer": n % 2 == 1}, "label", "1?", "true"),
        (
            lambda n: {"question": f"{n}?", "answer": ("Yes", "no", "yes")[n % 3]},
            "label",
            "1?",
            "no",
        ),
        (
            lambda n: {"instruction": f"{n}!", "response": f"r{n} it is", "category": "qa"},
            "text",
            "1!",
            "r1 it is",
        ),
        (
            lambda n: {"problem": f"{n}?", "answer": f"$\\frac{{{n}}}{{2}}$"},
            "math",
            "1?",
            "$\\frac{1}{2}$",
        ),
        (lambda n: {"prompt": f"{n}?", "completion": WORDS[n % 2]}, "label", "1?", "dog"),
        (
            lambda n: {
                "messages": [
                    {"role": "user", "content": f"{n}?"},
                    {"role": "assistant", "content": WORDS[n % 2]},
                ]
            },
            "label",
            "1?",
            "dog",
        ),
    ],
)
def test_the_columns_and_the_answers_are_told_from_the_file(
    tmp_path: Path, make: Any, answer: str, question: str, label: str
) -> None:
    data = write(tmp_path, make)
    _, body = init(data)
    assert body["method"]["qcrd"]["task"]["answer"] == answer
    row = read(data, body)[1]
    assert (row.question.text, row.question.label) == (question, label)


def test_tables_are_read_too(tmp_path: Path) -> None:
    data = tmp_path / "train.csv"
    lines = [f'"what, {n}?",{WORDS[n % 2]},{n}' for n in range(20)]
    data.write_text("\n".join(["sentence,category,id", *lines]))
    said, body = init(data)
    task = body["method"]["qcrd"]["task"]
    assert task["fields"] == {"question": "sentence", "label": "category"}
    assert task["labels"] == ["cat", "dog"]
    assert "20 records, columns sentence, category, id" in said
    assert read(data, body)[1].question.text == "what, 1?"


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("rationale", "rationales"),
        ("explanation", "rationales"),
        ("model_output", "teacher_output"),
    ],
)
def test_outputs_that_are_there_are_imported(tmp_path: Path, column: str, name: str) -> None:
    data = write(tmp_path, lambda n: {"question": f"{n}?", "label": str(n), column: f"It is {n}."})
    said, body = init(data)
    settings = body["method"]["qcrd"]
    assert settings["rationales"]["import"] == "train.jsonl"
    assert settings["task"]["fields"] == {name: column}
    assert "outputs of 60 records are imported" in said
    row = read(data, body)[1]
    assert (row.outputs, row.explains_label) == (("It is 1.",), name == "rationales")


def test_a_solution_with_its_answer_behind_a_mark_is_both(tmp_path: Path) -> None:
    """As GSM8K has them."""
    data = write(
        tmp_path, lambda n: {"question": f"{n}?", "answer": f"It is <<{n}>>{n}.\n#### {n + 1},000"}
    )
    _, body = init(data)
    assert body["method"]["qcrd"]["task"]["answer"] == "number"
    assert body["method"]["qcrd"]["rationales"]["import"] == "train.jsonl"
    row = read(data, body)[1]
    assert (row.question.label, row.outputs) == ("2,000", ("It is <<1>>1.",))
    assert row.explains_label


def test_reasoning_of_chats_is_imported(tmp_path: Path) -> None:
    data = write(
        tmp_path,
        lambda n: {
            "messages": [
                {"role": "user", "content": f"{n}?"},
                {"role": "assistant", "content": "a", "reasoning_content": "because"},
            ]
        },
    )
    assert init(data)[1]["method"]["qcrd"]["rationales"]["import"] == "train.jsonl"


def test_the_other_files_of_a_folder_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name in ("train.jsonl", "dev.jsonl", "test-00000.jsonl", "notes.txt"):
        write(folder, lambda n: {"question": f"{n}?", "label": str(n)}, name=name)
    _, body = init(folder)
    assert body["training_file"] == "set/train.jsonl"
    assert body["validation_file"] == "set/dev.jsonl"
    assert body["test_file"] == "set/test-00000.jsonl"


def test_a_broken_file_beside_it_is_named(tmp_path: Path) -> None:
    data = write(tmp_path, lambda n: {"question": f"{n}?", "label": str(n)})
    (tmp_path / "test.jsonl").write_text('{"question": "1?", "label": "1"}\n{"question": "2\n')
    code, said = run(str(data), "--yes", "--output", str(tmp_path / "job.yaml"))
    assert code == 2
    assert "test.jsonl: line 2: broken JSON" in said
    assert "mend that file" in said
    assert "--question" not in said


def test_a_new_decoder_learns_faster_than_a_base_that_has_one(tmp_path: Path) -> None:
    """At the rate of a finetuning it would not learn a thing in a first job."""
    data = write(tmp_path, lambda n: {"question": f"{n}?", "label": str(n)})
    _, body = init(data)
    assert body["method"]["qcrd"]["hyperparameters"]["learning_rate"] == 1e-3
    _, other = init(data, "--model", "google/flan-t5-small", "--force")
    assert other["method"]["qcrd"]["hyperparameters"] == {"iterations": 10}


def test_long_labels_get_the_room_they_need(tmp_path: Path) -> None:
    data = write(tmp_path, lambda n: {"question": f"{n}?", "answer": f"{n} " + "word " * 60})
    assert init(data)[1]["method"]["qcrd"]["hyperparameters"]["max_label_tokens"] > 100


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["init", *arguments])
    return done.exit_code, done.output


def test_columns_that_no_name_tells_are_asked_for_or_named(tmp_path: Path) -> None:
    data = write(tmp_path, lambda n: {"foo": f"{n}?", "bar": WORDS[n % 2]})
    output = str(tmp_path / "job.yaml")
    code, said = run(str(data), "--yes", "--output", output)
    assert code == 2
    assert "no column looks like the question: there are foo, bar" in said
    assert "--question COLUMN" in said
    _, body = init(data, "--question", "{foo}", "--label", "bar")
    assert body["method"]["qcrd"]["task"]["fields"] == {"question": "{foo}", "label": "bar"}


def test_a_job_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    data = write(tmp_path, lambda n: {"question": f"{n}?", "label": str(n)})
    output = tmp_path / "job.yaml"
    output.write_text("mine")
    code, said = run(str(data), "--yes", "--output", str(output))
    assert (code, output.read_text()) == (2, "mine")
    assert "--force" in said


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "the file is empty"), ('{"question": ', "line 1: broken JSON")],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, content: str, told: str) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text(content)
    code, said = run(str(data), "--yes", "--output", str(tmp_path / "job.yaml"))
    assert code == 2
    assert told in said
    assert run(str(tmp_path / "none"), "--yes")[0] == 2
