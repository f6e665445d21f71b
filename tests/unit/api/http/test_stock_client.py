"""What stock clients and probes send: ids of others, filters, a slash too many, parts of files."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from services.api.files.service import delete_expired_files
from tests.unit.api.gateway_client import ABSENT, Here, lines, refused, sums

OTHERS = "ftjob-abc123"


@pytest.mark.parametrize(
    ("method", "path", "code", "param"),
    [
        ("GET", "/v1/files/file-abc123", "file_not_found", "file_id"),
        ("GET", "/v1/files/file-abc123/content", "file_not_found", "file_id"),
        ("DELETE", "/v1/files/file-abc123", "file_not_found", "file_id"),
        ("GET", "/v1/models/gpt-4o-mini", "model_not_found", "model"),
        ("DELETE", "/v1/models/gpt-4o-mini", "model_not_found", "model"),
        ("GET", f"/v1/fine_tuning/jobs/{OTHERS}", "not_found", "job_id"),
        ("DELETE", f"/v1/fine_tuning/jobs/{OTHERS}", "not_found", "job_id"),
        ("POST", f"/v1/fine_tuning/jobs/{OTHERS}/cancel", "not_found", "job_id"),
        ("POST", f"/v1/fine_tuning/jobs/{OTHERS}/resume", "not_found", "job_id"),
        ("GET", f"/v1/fine_tuning/jobs/{OTHERS}/events", "not_found", "job_id"),
        ("GET", f"/v1/fine_tuning/jobs/{OTHERS}/checkpoints", "not_found", "job_id"),
        ("GET", "/v1/studies/study-1", "study_not_found", "study_id"),
        ("GET", "/v1/rationale_sets/set-1", "set_not_found", "set_id"),
        ("GET", "/v1/discriminators/judge-1", "discriminator_not_found", "judge_id"),
    ],
)
def test_ids_of_others_are_not_there(
    here: Here, method: str, path: str, code: str, param: str
) -> None:
    refused(here.client.request(method, path), 404, code, param)


def test_a_wrong_id_in_a_job_is_a_wrong_value(here: Here) -> None:
    refused(here.create("file-abc123"), 400, "file_not_found", "training_file")


def test_jobs_are_listed_by_metadata(here: Here) -> None:
    training = here.file(sums(12))
    teams = ["blue", "red", "blue"]
    for seed, team in enumerate(teams):
        created = here.create(training, seed=seed, metadata={"team": team, "run": "a"})
        assert created.status_code == 200

    def count(query: str) -> int:
        return len(here.client.get(f"/v1/fine_tuning/jobs?{query}").json()["data"])

    assert count("metadata[team]=blue") == 2
    assert count("metadata[team]=blue&limit=1") == 1
    assert count("metadata[team]=red&metadata[run]=a") == 1
    assert count("metadata[team]=green") == 0
    assert count("") == 3


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/fine_tuning/jobs?status=running", "status"),
        ("GET", "/v1/fine_tuning/jobs?metadata=red", "metadata"),
        ("GET", "/v1/fine_tuning/jobs?limit[a]=1", "limit[a]"),
        ("GET", "/v1/files?metadata[team]=red", "metadata[team]"),
        ("GET", f"/v1/files/{ABSENT}?verbose=1", "verbose"),
        ("GET", "/v1/models?base=tiny", "base"),
        ("GET", "/v1/studies?state=done", "state"),
        ("GET", "/v1/rationale_sets?teacher=a", "teacher"),
        ("GET", "/v1/discriminators?job=a", "job"),
        ("POST", "/v1/fine_tuning/jobs?dry_run=1", "dry_run"),
    ],
)
def test_a_query_parameter_that_no_route_knows_is_refused(
    here: Here, method: str, path: str, name: str
) -> None:
    body = {} if method == "POST" else None
    message = refused(here.client.request(method, path, json=body), 400, "unknown_parameter", name)
    assert f"`{name}`" in message


def test_a_slash_too_many_is_left_out(here: Here) -> None:
    form = {"files": {"file": ("a.jsonl", lines(sums(2)))}, "data": {"purpose": "fine-tune"}}
    client = here.client
    uploaded = client.post("/v1/files/", follow_redirects=False, **form)  # type: ignore[arg-type]
    assert uploaded.status_code == 200, uploaded.text
    listed = client.get("/v1/files/", follow_redirects=False)
    assert [found["id"] for found in listed.json()["data"]] == [uploaded.json()["id"]]


def upload(here: Here, **form: str) -> Any:
    return here.client.post(
        "/v1/files",
        files={"file": ("a.jsonl", lines(sums(4)))},
        data={"purpose": "fine-tune", **form},
    )


def test_a_file_expires_when_its_client_said_unless_a_job_needs_it(here: Here) -> None:
    """The same content lives as long as any of its uploads should."""
    hour = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
    stored = upload(here, **hour).json()
    assert 3599 <= stored["expires_at"] - stored["created_at"] <= 3601
    later = time.time() + 3700
    assert delete_expired_files(here.store, here.jobs, time.time()) == []
    job = here.create(stored["id"])
    assert job.status_code == 200, job.text
    assert delete_expired_files(here.store, here.jobs, later) == []
    here.client.post(f"/v1/fine_tuning/jobs/{job.json()['id']}/cancel")
    assert delete_expired_files(here.store, here.jobs, later) == [stored["id"]]
    refused(here.client.get(f"/v1/files/{stored['id']}"), 404, "file_not_found", "file_id")
    assert upload(here, **hour).json()["expires_at"] is not None
    assert upload(here).json()["expires_at"] is None
    assert delete_expired_files(here.store, here.jobs, later) == []


@pytest.mark.parametrize(
    "form",
    [
        {"expires_after[anchor]": "uploaded_at"},
        {"expires_after[anchor]": "created_at"},
        {"expires_after[seconds]": "60"},
        {"expires_after[seconds]": "\uff14\uff10\uff10\uff10"},
        {"expires_after[seconds]": "soon"},
        {"expires_after[seconds]": "2592001"},
    ],
)
def test_a_lifetime_that_is_none_is_refused(here: Here, form: dict[str, str]) -> None:
    refused(upload(here, **form), 400, "invalid_value", "expires_after")
    assert here.client.get("/v1/files").json()["data"] == []


def test_files_are_listed_by_purpose(here: Here) -> None:
    evals = upload(here, purpose="evals").json()
    assert evals["purpose"] == "evals"
    assert here.client.get("/v1/files?purpose=evals").json()["data"] == [evals]
    assert here.client.get("/v1/files?purpose=fine-tune").json()["data"] == []
    refused(upload(here, purpose="vision"), 400, "invalid_value", "purpose")


@pytest.mark.parametrize("path", ["/v1/uploads", "/v1/uploads/upload_1/parts"])
def test_uploads_in_parts_are_told_the_way(here: Here, path: str) -> None:
    body = {"filename": "a.jsonl", "bytes": 10, "purpose": "fine-tune"}
    answer = here.client.post(path, content=json.dumps(body), headers=JSON)
    message = refused(answer, 404, "unknown_url")
    assert "POST /v1/files takes a whole file of up to 1048576 bytes" in message


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_may_ask_for_the_head_only(here: Here, path: str) -> None:
    answer = here.client.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "body", "param"),
    [
        ("GET", "/v1/fine_tuning/jobs?limit=0", None, "limit"),
        ("GET", "/v1/files?order=up", None, "order"),
        ("POST", "/v1/chat/completions", {"model": "a"}, "messages"),
        ("POST", "/v1/chat/completions", {"model": "a", "messages": []}, "messages"),
        ("POST", "/v1/completions", {"model": "a", "prompt": "b", "max_tokens": 0}, "max_tokens"),
        ("POST", "/v1/completions", {"model": "a", "prompt": "b", "temperature": 3}, "temperature"),
    ],
)
def test_bad_values_are_bad_requests(
    here: Here, method: str, path: str, body: object, param: str
) -> None:
    refused(here.client.request(method, path, json=body), 400, "invalid_value", param)
