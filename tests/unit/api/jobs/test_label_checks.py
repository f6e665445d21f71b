"""Labels that are one answer, or none that the task can have, are refused before a job begins."""

from __future__ import annotations

import pytest

from tests.unit.api.gateway_client import Here, refused


@pytest.mark.parametrize(
    ("labels", "named"),
    [
        (["no", "n\u00e9e", "ne\u0301e"], "'n\u00e9e' and 'ne\u0301e' are one answer"),
        (["**yes**", "yes"], "'**yes**' and 'yes' are one answer"),
        (["yes", "yes."], "'yes' and 'yes.' are one answer"),
        (["the dog", "cat", "dog"], "'the dog' and 'dog' are one answer"),
        (["yes", "?"], "'?' has nothing that an answer could be told by"),
        (["yes\nno", "no"], "'yes\\nno' has nothing that an answer could be told by"),
    ],
)
def test_labels_that_are_one_answer_are_both_named(
    here: Here, labels: list[str], named: str
) -> None:
    training = here.file([{"question": f"Q{i}?", "label": labels[0]} for i in range(12)])
    answer = here.create(training, {"task": {"answer": "label", "labels": labels}})
    param = answer.json()["error"]["param"]
    assert param.startswith("method.qcrd.task.labels.")
    assert named in refused(answer, 400, "same_label", param)


def test_labels_that_differ_are_taken(here: Here) -> None:
    labels = ["A", "A*", "not the dog", "(a) thing", "+", "-", "*", "**"]
    training = here.file([{"question": f"Q{i}?", "label": labels[i % 8]} for i in range(12)])
    task = {"task": {"answer": "label", "labels": labels}}
    assert here.create(training, task).status_code == 200


def test_a_number_with_leading_zeros_is_a_number(here: Here) -> None:
    rows = [{"question": f"Which agent is number {i}?", "label": f"00{i}"} for i in range(12)]
    assert here.create(here.file(rows)).status_code == 200


@pytest.mark.parametrize("label", ["3:30", "12:05 p.m.", "3 pm", "2024-01-05"])
def test_a_time_of_day_is_no_number(here: Here, label: str) -> None:
    rows = [{"question": f"What is {i} + 0?", "label": str(i)} for i in range(12)]
    rows[4]["label"] = label
    message = refused(here.create(here.file(rows)), 400, "invalid_label", "training_file")
    assert message.startswith(f"line 5: label {label!r}")
    assert "use `answer: text`" in message


def test_an_option_is_named_by_its_letter(here: Here) -> None:
    pets = ["cat", "dog", "cow", "hen"]
    rows = [{"question": f"Pet {i}?", "label": "B", "choices": pets} for i in range(12)]
    choice = {"task": {"answer": "choice"}}
    assert here.create(here.file(rows), choice).status_code == 200
    rows[2]["label"] = "E"
    message = refused(here.create(here.file(rows), choice), 400, "invalid_label", "training_file")
    assert message.startswith("line 3: ")
    assert "an option's text or its letter" in message
