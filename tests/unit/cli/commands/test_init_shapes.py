"""`qcrd init --yes` on files in the shapes of data sets that many have. The records are our own."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from qcrd.cli.main import app
from qcrd.questions.rows import QuestionRow, read_rows

Make = Callable[[int], dict[str, Any]]
PLACES = ("harbour", "orchard", "quarry", "meadow")
LETTERS = "ABCD"


def race(n: int) -> dict[str, Any]:
    return {
        "example_id": f"high{n // 2}.txt",
        "article": f"Boat {n // 2} left the {PLACES[n % 4]} at dawn.",
        "question": ("Where was the boat?", "What left?")[n % 2],
        "options": [f"the {place}" for place in PLACES],
        "answer": LETTERS[n % 4],
    }


def metamath(n: int) -> dict[str, Any]:
    return {
        "query": f"Ada has {n} nets and buys {n}. How many has she?",
        "response": f"She has {n} + {n} = {2 * n} nets.\n#### {2 * n}\nThe answer is: {2 * n}",
        "type": "GSM_Rephrased",
        "original_question": "Ada buys nets.",
    }


def esnli(n: int) -> dict[str, Any]:
    return {
        "premise": f"Boat {n} sails.",
        "hypothesis": f"A boat moves, number {n}.",
        "label": -1 if n == 31 else n % 3,
        "explanation_1": f"Sailing is moving, {n}.",
        "explanation_2": "" if n < 40 else "A sailing boat moves.",
        "explanation_3": "" if n < 40 else "What sails moves.",
    }


def commonsense(n: int) -> dict[str, Any]:
    options = [{"label": LETTERS[i], "text": place} for i, place in enumerate(PLACES)]
    stem = f"Where does boat {n} lie?"
    question = {"question_concept": "boat", "choices": options, "stem": stem}
    return {"id": f"q{n}", "question": question, "answerKey": LETTERS[n % 4]}


def openr1(n: int) -> dict[str, Any]:
    right, wrong = f"\\frac{{{n + 1}}}{{7}}", f"\\frac{{{n + 2}}}{{7}}"
    texts = [
        f"<think>\nSevenths, I say.\n</think>\nSo it is \\boxed{{{x}}}." for x in (right, wrong)
    ]
    return {
        "problem": f"Take {n + 1} sevenths.",
        "solution": f"It is ${right}$.",
        "answer": right,
        "source": "own",
        "generations": [texts[0], texts[0], texts[1]],
        "correctness_math_verify": [True, True, False],
    }


def copa(n: int) -> dict[str, Any]:
    return {
        "premise": f"Boat {n} sank.",
        "choice1": "It had a hole.",
        "choice2": "It was blue.",
        "question": ("cause", "effect")[n % 2],
        "label": n % 2,
        "idx": n,
    }


def medical(n: int) -> dict[str, Any]:
    options = dict(zip(LETTERS, PLACES, strict=True))
    return {
        "question": f"Where was patient {n}?",
        "options": options,
        "answer_idx": LETTERS[n % 4],
        "answer": PLACES[n % 4],
    }


def init(data: Path, *options: str) -> tuple[int, str, Any]:
    output = data.parent / "job.yaml"
    arguments = ["init", str(data), "--yes", "--output", str(output), *options]
    done = CliRunner().invoke(app, arguments)
    body = yaml.safe_load(output.read_text()) if output.exists() else None
    return done.exit_code, done.output, body


def write(folder: Path, make: Make, count: int = 60) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(make(n)) + "\n" for n in range(count)))
    return path


def read(data: Path, body: Any) -> list[QuestionRow]:
    with data.open("rb") as file:
        return list(read_rows(file, body["method"]["qcrd"]["task"].get("fields")))


@pytest.mark.parametrize(
    ("make", "answer", "question", "label", "outputs"),
    [
        (race, "choice", "Boat 0 left the orchard at dawn.\n\nWhat left?", "B", ()),
        (
            metamath,
            "number",
            "Ada has 1 nets and buys 1. How many has she?",
            "2",
            ("She has 1 + 1 = 2 nets.\n#### 2",),
        ),
        (
            esnli,
            "label",
            "Premise: Boat 1 sails.\nHypothesis: A boat moves, number 1.",
            "1",
            ("Sailing is moving, 1.",),
        ),
        (commonsense, "choice", "Where does boat 1 lie?", "orchard", ()),
        (
            openr1,
            "math",
            "Take 2 sevenths.",
            "\\frac{2}{7}",
            tuple(openr1(1)["generations"]),
        ),
        (copa, "choice", "Boat 1 sank.\nWhat is the effect of this?", "It was blue.", ()),
        (medical, "choice", "Where was patient 1?", "orchard", ()),
    ],
)
def test_published_shapes_are_read_whole(
    tmp_path: Path, make: Make, answer: str, question: str, label: str, outputs: tuple[str, ...]
) -> None:
    data = write(tmp_path, make)
    code, said, body = init(data)
    assert code == 0, said
    assert body["method"]["qcrd"]["task"]["answer"] == answer
    rows = read(data, body)
    assert len(rows) == (59 if make is esnli else 60)
    second = rows[1]
    assert (second.question.text, second.question.label) == (question, label)
    assert second.outputs == outputs
    assert f"60 records read, {len(rows)} questions, {len(rows)} labelled" in said
    assert "the student is asked 'predict: " in said
    assert ("import" in body["method"]["qcrd"]["rationales"]) == bool(outputs)


def test_a_label_of_nobody_and_later_explanations_are_told(tmp_path: Path) -> None:
    _, said, body = init(write(tmp_path, esnli))
    assert body["method"]["qcrd"]["task"]["labels"] == ["0", "1", "2"]
    assert body["method"]["qcrd"]["task"]["fields"]["label"] == "label != -1"
    assert "1 records are left out" in said
    assert "rationales: 99 read, 0 unread" in said


def test_outputs_are_voted_on_and_counted(tmp_path: Path) -> None:
    _, said, _ = init(write(tmp_path, openr1))
    assert "rationales: 180 read, 0 unread" in said
    assert "learns 'Sevenths, I say.'" in said or "learns 'So it is" in said


def test_classes_that_are_negative_stay(tmp_path: Path) -> None:
    """Of three classes -1, 0 and 1 a third has the first."""
    data = write(tmp_path, lambda n: {"text": f"t{n}", "label": n % 3 - 1})
    _, _, body = init(data)
    assert body["method"]["qcrd"]["task"]["labels"] == ["-1", "0", "1"]


def test_a_column_that_only_later_records_have_is_found(tmp_path: Path) -> None:
    def make(n: int) -> dict[str, Any]:
        label = {"label": None} if n < 30 else {"label": "yes" if n % 2 else "no"}
        return {"question": f"Q{n}?", **label, "gold_label": "yes" if n % 2 else "no"}

    code, said, _ = init(write(tmp_path, make))
    assert code == 2
    assert "line 1: `label` is missing" in said
    assert "Nothing was written: the columns are question, label, gold_label" in said
    assert "--label" in said
    code, _, body = init(tmp_path / "train.jsonl", "--label", "gold_label")
    assert (code, body["method"]["qcrd"]["task"]["labels"]) == (0, ["no", "yes"])


def test_a_rare_label_of_the_files_end_is_one_of_the_task(tmp_path: Path) -> None:
    def make(n: int) -> dict[str, Any]:
        return {"text": f"t{n}", "label": "rare" if n == 2999 else ("yes", "no")[n % 2]}

    _, _, body = init(write(tmp_path, make, 3000))
    assert body["method"]["qcrd"]["task"]["labels"] == ["no", "rare", "yes"]


def test_questions_that_lack_what_tells_them_apart_are_named(tmp_path: Path) -> None:
    def make(n: int) -> dict[str, Any]:
        return {"scene": f"Boat {n}.", "question": "Where?", "label": PLACES[n % 4]}

    data = write(tmp_path, make)
    code, said, body = init(data)
    assert (code, body) == (2, None)
    assert "the same question as line 1" in said
    assert "--question '{a}\\n{b}'" in said
    assert init(data, "--question", "{scene} {question}")[0] == 0


def test_unreadable_outputs_name_the_setting(tmp_path: Path) -> None:
    def make(n: int) -> dict[str, Any]:
        return {"question": f"{n}?", "label": PLACES[n % 4], "model_output": "As I said before."}

    data = write(tmp_path, make)
    code, said, body = init(data)
    assert (code, body) == (2, None)
    assert "60 of the 60 outputs have no readable answer" in said
    assert "--answers" in said
    code, said, body = init(data, "--answers", "label")
    assert (code, body["method"]["qcrd"]["rationales"]["answers"]) == (0, "label")


def test_kinds_that_some_answers_are_not_are_widened(tmp_path: Path) -> None:
    def make(n: int) -> dict[str, Any]:
        return {"question": f"Q{n}?", "answer": "$x + 1$" if n == 50 else f"{n}"}

    code, said, body = init(write(tmp_path, make))
    assert (code, body["method"]["qcrd"]["task"]["answer"]) == (0, "math")
    assert "answer: math, as of number: line 51: label '$x + 1$' is not a number" in said


def test_contradicting_rationales_are_told(tmp_path: Path) -> None:
    def make(n: int) -> dict[str, Any]:
        said = n + 1 if n == 7 else n
        return {"question": f"Q{n}?", "label": f"{n}", "rationale": f"I count.\nAnswer: {said}"}

    code, said, _ = init(write(tmp_path, make))
    assert code == 0
    assert "warning: 1 rationales end in another answer than the label" in said


def test_a_file_without_labels_learns_the_vote(tmp_path: Path) -> None:
    data = write(tmp_path, lambda n: {"question": f"Q{n}?", "label": None})
    code, said, body = init(data)
    assert code == 0, said
    assert body["method"]["qcrd"]["label_mode"] == "llm"


def test_other_fields_are_named_by_the_option(tmp_path: Path) -> None:
    def make(n: int) -> dict[str, Any]:
        return {"question": f"Q{n}?", "one": "oar", "two": "net", "right": n % 2}

    data = write(tmp_path, make)
    code, said, body = init(data, "--label", "right", "--field", "choices=one,two")
    assert code == 0, said
    assert read(data, body)[1].question.label == "net"
    assert init(data, "--field", "colour=one")[0] == 2


def test_explanations_of_tables_may_be_several_columns(tmp_path: Path) -> None:
    """As the explained SNLI's own files have them, whose label of nobody is a hyphen."""
    data = tmp_path / "train.csv"
    with data.open("w", newline="") as file:
        table = csv.writer(file)
        names = "pairID,gold_label,Sentence1,Sentence2,Explanation_1,Explanation_2"
        table.writerow(names.split(","))
        for n in range(40):
            label = "-" if n == 20 else ("neutral", "entailment")[n % 2]
            table.writerow([n, label, f"Boat {n}, red.", "It moves.", "It sails.", "" * n])
    code, said, body = init(data)
    assert code == 0, said
    assert body["method"]["qcrd"]["task"]["labels"] == ["entailment", "neutral"]
    assert len(read(data, body)) == 39
