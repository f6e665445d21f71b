"""A spec has bounds, each named by its field, and lists stay short."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.gateway_client import Here, refused, sums

LABELS = [f"label {n}" for n in range(1_000)]


def example(text: str = "x") -> dict[str, str]:
    return {"question": text, "explanation": "y", "answer": "1"}


@pytest.mark.parametrize(
    ("top", "param"),
    [
        ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "v"}}, "metadata"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"model": "m" * 257}, "model"),
    ],
)
def test_what_is_too_large_is_named(here: Here, top: dict[str, Any], param: str) -> None:
    message = refused(here.create(here.file(sums(4)), **top), 400, "too_large", param)
    assert "more than" in message


@pytest.mark.parametrize(
    ("task", "param"),
    [
        ({"instruction": "x" * 16_385}, "instruction"),
        ({"examples": [example()] * 65}, "examples"),
        ({"examples": [example(), example("x" * 16_385)]}, "examples.1.question"),
        ({"answer": "label", "labels": [f"{n}" for n in range(2_001)]}, "labels"),
        ({"answer": "label", "labels": ["a", "b" * 257]}, "labels.1"),
    ],
)
def test_what_is_too_large_of_a_task_is_named(here: Here, task: dict[str, Any], param: str) -> None:
    body = {"task": {"answer": "number", **task}}
    answer = here.create(here.file(sums(4)), body)
    refused(answer, 400, "too_large", f"method.qcrd.task.{param}")


def test_what_is_too_large_as_a_whole_says_what_to_shorten(here: Here) -> None:
    body = {"task": {"answer": "number", "examples": [example("x" * 9_000)] * 8}}
    message = refused(here.create(here.file(sums(4)), body), 400, "too_large")
    assert "shorten `instruction`, `labels` or `examples`" in message


def test_the_bounds_themselves_are_taken(here: Here) -> None:
    top = {"metadata": {f"{n:064}": "v" * 512 for n in range(16)}}
    assert here.create(here.file(sums(4)), **top).status_code == 200


def test_a_list_leaves_out_long_texts_which_the_job_shows(here: Here) -> None:
    training = here.file(sums(4))
    task = {"answer": "number", "instruction": "x" * 3_000}
    job = here.create(training, {"task": task}).json()
    short = here.create(training, seed=1).json()
    listed = {one["id"]: one for one in here.client.get("/v1/fine_tuning/jobs").json()["data"]}
    assert listed[short["id"]] == short | {"queue": listed[short["id"]]["queue"]}
    assert listed[job["id"]]["method"]["qcrd"]["task"] == {
        "answer": "number",
        "conversation": False,
    }
    shown = here.client.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
    assert shown["method"]["qcrd"]["task"]["instruction"] == "x" * 3_000


def test_a_study_has_the_same_bounds(here: Here) -> None:
    job = {
        "model": "tiny",
        "training_file": here.file(sums(4)),
        "metadata": {"k": "v" * 513},
        "method": {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}},
    }
    body = {"job": job, "methods": ["finetune", "dss"], "seeds": [0], "baseline": "finetune"}
    refused(here.client.post("/v1/studies", json=body), 400, "too_large", "job.metadata.k")


def test_a_field_that_no_question_has_is_refused_by_name(here: Here) -> None:
    task = {"answer": "number", "fields": {"questoin": "text"}}
    reply = here.create(here.file(sums(4)), {"task": task})
    message = refused(reply, 400, "unknown_key", "method.qcrd.task.fields.questoin")
    assert "`question`, `label`, `choices`" in message


def test_an_empty_stop_sequence_is_refused(here: Here) -> None:
    reply = here.create(here.file(sums(4)), {"rationales": {"stop": ["##", ""]}})
    assert "would end every output" in refused(
        reply, 400, "invalid_value", "method.qcrd.rationales.stop.1"
    )
