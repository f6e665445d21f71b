"""Records that this release cannot read, as a client and an operator meet them."""

from __future__ import annotations

import json

from qcrd.records.job import Job
from qcrd.runtime import keys
from qcrd.runtime.jobs.state_machine import with_changes
from qcrd.runtime.storage.store import read_object
from tests.unit.api.gateway_client import Here, published, refused, sums

NEWER = b'{"schema_version": "2.0", "id": "x"}'


def make_newer(job: Job) -> Job:
    """As the twin of Redis keeps it: as JSON, whatever it says."""
    return job.model_copy(update={"schema_version": "2.0"})


def test_a_job_of_a_later_major_release_harms_no_other_and_is_named(here: Here) -> None:
    training = here.file(sums(4))
    bad, good = (here.create(training, seed=seed).json()["id"] for seed in (1, 2))
    here.jobs.update(bad, make_newer)
    listed = here.client.get("/v1/fine_tuning/jobs")
    assert [job["id"] for job in listed.json()["data"]] == [good]
    message = refused(here.client.get(f"/v1/fine_tuning/jobs/{bad}"), 501, "unreadable_record")
    assert "schema version 2.0, and this release reads 1.x" in message
    ready = here.client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["unreadable"] == {bad: message}
    assert here.create(training, seed=3).status_code == 200
    assert here.client.post(f"/v1/fine_tuning/jobs/{good}/cancel").status_code == 200


def test_objects_of_a_later_major_release_are_left_out_of_lists(here: Here) -> None:
    model, file_id = published(here.store), here.file(sums(4))
    model_key, file_key = f"{keys.MODELS}model-newer/model.json", f"{keys.FILES}file-x/meta.json"
    here.store.put(model_key, NEWER)
    here.store.put(file_key, NEWER)
    here.store.put(keys.study_key("study-newer"), NEWER)
    assert [one["id"] for one in here.client.get("/v1/models").json()["data"]] == [model.id]
    assert [one["id"] for one in here.client.get("/v1/files").json()["data"]] == [file_id]
    assert here.client.get("/v1/studies").json()["data"] == []
    unreadable = here.client.get("/ready").json()["unreadable"]
    assert {model_key, file_key, keys.study_key("study-newer")} <= set(unreadable)
    assert read_object(here.store, model_key) == NEWER


def test_what_a_client_sends_is_read_strictly_in_every_depth(here: Here) -> None:
    training = here.file(sums(4))
    refused(here.create(training, new_field=1), 400, "unknown_key", "new_field")
    body = {"rationales": {"n": 2, "new_field": 1}}
    answer = here.create(training, body)
    refused(answer, 400, "unknown_key", "method.qcrd.rationales.new_field")
    job = here.create(training).json()["id"]
    here.client.post(f"/v1/fine_tuning/jobs/{job}/pause")
    resumed = here.client.post(
        f"/v1/fine_tuning/jobs/{job}/resume", json={"budget": {"teacher_tokens": 5, "new": 1}}
    )
    assert resumed.status_code in (400, 422)
    assert "new" in json.dumps(resumed.json())


def test_fields_of_a_later_minor_release_live_through_a_change(here: Here) -> None:
    job_id = here.create(here.file(sums(4))).json()["id"]
    here.jobs.update(job_id, lambda job: job.model_copy(update={"later": {"deep": 1}}))
    here.client.post(f"/v1/fine_tuning/jobs/{job_id}/pause")
    assert here.jobs.get(job_id).model_extra == {"later": {"deep": 1}}
    assert with_changes(here.jobs.get(job_id), attempt=1).model_extra == {"later": {"deep": 1}}


def test_events_of_kinds_that_a_later_release_writes_are_passed_on(here: Here) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    here.events.append(job, "of tomorrow", level="notice", type="table", data={"rows": 2})
    here.events.append(job, "over", data={"status": "cancelled"})
    listed = here.client.get(f"/v1/fine_tuning/jobs/{job}/events").json()["data"]
    assert ("notice", "table") in {(event["level"], event["type"]) for event in listed}
    with here.client.stream("GET", f"/v1/fine_tuning/jobs/{job}/events?stream=true") as answer:
        text = "".join(answer.iter_text())
    assert "of tomorrow" in text
    assert text.index("of tomorrow") < text.index("over")
