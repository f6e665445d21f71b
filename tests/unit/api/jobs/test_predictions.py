"""`GET /v1/fine_tuning/jobs/{id}/predictions`."""

from __future__ import annotations

from typing import Any

import pytest

from qcrd.records.job import JobStatus
from qcrd.records.rationales import Prediction
from qcrd.runtime import keys
from qcrd.runtime.storage.json_lines import write_lines
from tests.unit.api.gateway_client import Here, refused, sums
from tests.unit.trainer.test_report import made


@pytest.fixture
def job(here: Here) -> str:
    """One that has succeeded, with two rows of three predictions."""
    created = here.create(here.file(sums(20))).json()["id"]
    record = here.jobs.get(created)
    here.jobs.update(
        created,
        lambda job: job.model_copy(update={"report": made(), "status": JobStatus.SUCCEEDED}),
    )
    write_lines(
        here.store,
        keys.job_predictions_key(record.id),
        [
            Prediction(
                question_id=f"q{place}",
                text="so 3",
                answer="3",
                gold=gold,
                right=gold == "3",
                method=method,
                question=f"Question {place}?",
                teacher_answer="4",
                teacher_asked=place > 0,
            )
            for method in ("qcrd", "finetune")
            for place, gold in enumerate("344")
        ],
    )
    return str(created)


def read(here: Here, job: str, **query: Any) -> dict[str, Any]:
    answer = here.client.get(f"/v1/fine_tuning/jobs/{job}/predictions", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_they_are_served_with_question_and_teacher(here: Here, job: str) -> None:
    page = read(here, job)
    assert [one["id"] for one in page["data"]] == [f"prediction-{place}" for place in range(6)]
    assert page["data"][1] == {
        "id": "prediction-1",
        "object": "fine_tuning.job.prediction",
        "method": "qcrd",
        "question_id": "q1",
        "question": "Question 1?",
        "text": "so 3",
        "answer": "3",
        "gold": "4",
        "right": False,
        "confidence": None,
        "teacher_answer": "4",
        "teacher_right": True,
    }
    assert page["data"][0]["teacher_right"] is None


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ({"method": "finetune"}, [3, 4, 5]),
        ({"right": True}, [0, 3]),
        ({"right": False, "teacher_right": True, "method": "qcrd"}, [1, 2]),
        ({"teacher_right": False}, []),
        ({"label": "4", "method": "qcrd"}, [1, 2]),
        ({"method": "dss"}, []),
    ],
)
def test_they_are_filtered(here: Here, job: str, query: dict[str, Any], places: list[int]) -> None:
    assert [one["id"] for one in read(here, job, **query)["data"]] == [
        f"prediction-{place}" for place in places
    ]


def test_pages_go_on_behind_the_last_one(here: Here, job: str) -> None:
    found: list[str] = []
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    while page["has_more"]:
        after = {"after": page["last_id"]} if page["last_id"] else {}
        page = read(here, job, right=False, limit=3, **after)
        found += [one["id"] for one in page["data"]]
    assert found == [f"prediction-{place}" for place in (1, 2, 4, 5)]


def test_a_wrong_place_and_a_job_without_them_are_refused(here: Here, job: str) -> None:
    path = f"/v1/fine_tuning/jobs/{job}/predictions"
    for after in ("q1", "prediction-", "prediction-" + "9" * 5000, "prediction--1"):
        refused(here.client.get(path, params={"after": after}), 400, "invalid_value", "after")
    fresh = here.create(here.file(sums(21))).json()["id"]
    answer = here.client.get(f"/v1/fine_tuning/jobs/{fresh}/predictions")
    assert answer.status_code == 409
    assert "they come with its report" in answer.json()["error"]["message"]
