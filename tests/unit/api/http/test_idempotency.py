"""`Idempotency-Key` over REST: one request, one effect, however often it is sent."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from qcrd.errors import Transient
from qcrd.records.job import Job
from services.api.dependencies import Gateway, get_service
from services.api.http.idempotency_store import MemoryIdempotencyStore
from tests.unit.api.gateway_client import TASK, Here, refused, sums

JOBS = "/v1/fine_tuning/jobs"


def body(here: Here, **top: Any) -> dict[str, Any]:
    method = {"type": "qcrd", "qcrd": TASK}
    return {"model": "tiny", "training_file": here.file(sums(5)), "method": method, **top}


def post(here: Here, key: str, path: str = JOBS, **json: Any) -> Any:
    return here.client.post(path, headers={"Idempotency-Key": key}, json=json)


def kept(here: Here) -> MemoryIdempotencyStore:
    gateway: Gateway = get_service(here.app, Gateway)
    assert isinstance(gateway.shared.idempotency_store, MemoryIdempotencyStore)
    return gateway.shared.idempotency_store


def lapse(here: Here) -> None:
    """The gateway that answered has been dead for longer than its lease."""
    entries = kept(here)._entries
    for name, entry in entries.items():
        entries[name] = entry.model_copy(update={"until": 0.0})


def test_a_job_is_created_once_and_answered_the_same(here: Here) -> None:
    asked = body(here)
    first, second = post(here, "a", **asked), post(here, "a", **asked)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert len(here.jobs.list(None, 10)) == 1
    assert post(here, "b", **asked).json()["id"] != first.json()["id"]


def test_another_body_or_path_under_the_same_key_is_refused(here: Here) -> None:
    asked = body(here)
    job_id = post(here, "a", **asked).json()["id"]
    refused(post(here, "a", **asked, seed=1), 409, "idempotency_key_reused", "Idempotency-Key")
    refused(
        post(here, "a", f"{JOBS}/{job_id}/cancel", **asked),
        409,
        "idempotency_key_reused",
        "Idempotency-Key",
    )


def test_a_refusal_is_not_kept(here: Here) -> None:
    asked = body(here)
    refused(post(here, "a", **{**asked, "model": "none"}), 400, "model_not_found", "model")
    assert post(here, "a", **asked).status_code == 200


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256])
def test_a_key_that_is_none_is_named(here: Here, key: str) -> None:
    refused(post(here, key, **body(here)), 400, "invalid_value", "Idempotency-Key")


def test_an_answer_that_was_lost_with_its_gateway_does_not_create_the_job_again(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway dies after it created the job and before the answer is kept; the lease ends."""
    asked = body(here)
    monkeypatch.setattr(kept(here), "finish", lambda *_: None)
    first = post(here, "a", **asked).json()
    lapse(here)
    again = post(here, "a", **asked)
    assert again.json()["id"] == first["id"]
    assert [job.id for job in here.jobs.list(None, 10)] == [first["id"]]
    assert [e.message for e in here.events.read(first["id"])] == ["job created"]


def test_a_job_that_was_created_before_an_outage_is_found_by_the_next_try(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway answers 503 for what it had done; the key stays that request's."""
    asked = body(here)
    create = here.jobs.create

    def broken(job: Job) -> None:
        create(job)
        raise Transient("Redis does not respond", code="redis_unavailable")

    monkeypatch.setattr(here.jobs, "create", broken)
    refused(post(here, "a", **asked), 503, "redis_unavailable")
    monkeypatch.setattr(here.jobs, "create", create)
    assert post(here, "a", **asked).status_code == 200
    assert len(here.jobs.list(None, 10)) == 1
    refused(post(here, "a", **asked, seed=1), 409, "idempotency_key_reused", "Idempotency-Key")


@pytest.mark.parametrize(
    ("verb", "before", "status"),
    [("pause", (), "paused"), ("resume", ("pause",), "queued"), ("cancel", (), "cancelled")],
)
def test_what_a_lost_answer_had_done_is_no_conflict_for_the_next_try(
    here: Here, monkeypatch: pytest.MonkeyPatch, verb: str, before: tuple[str, ...], status: str
) -> None:
    job_id = post(here, "made", **body(here)).json()["id"]
    for earlier in before:
        assert post(here, earlier, f"{JOBS}/{job_id}/{earlier}").status_code == 200
    monkeypatch.setattr(kept(here), "finish", lambda *_: None)
    path = f"{JOBS}/{job_id}/{verb}"
    first = post(here, "k", path)
    lapse(here)
    again = post(here, "k", path)
    assert (again.status_code, again.json()["status"]) == (200, status)
    assert first.json()["status"] == status
    told = [event.message for event in here.events.read(job_id)]
    assert len(told) == len(set(told)) == 2 + len(before)
    # Another request is another matter.
    if verb != "resume":
        refused(post(here, "other", path), 409, "conflict")


def test_after_a_day_a_key_is_a_new_one(here: Here) -> None:
    asked = body(here)
    first = post(here, "a", **asked).json()
    kept(here)._entries.clear()
    assert post(here, "a", **asked).json()["id"] != first["id"]
    assert post(here, "b", **asked, seed=1).status_code == 200


def test_a_second_try_while_the_first_is_answered_is_told_to_wait(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = body(here)
    begun, go_on = threading.Event(), threading.Event()
    create = here.jobs.create

    def slow(job: Job) -> None:
        begun.set()
        assert go_on.wait(10)
        create(job)

    monkeypatch.setattr(here.jobs, "create", slow)
    first: list[Any] = []
    thread = threading.Thread(target=lambda: first.append(post(here, "a", **asked)))
    thread.start()
    assert begun.wait(10)
    early = post(here, "a", **asked)
    go_on.set()
    thread.join(60)
    refused(early, 409, "idempotency_in_progress", "Idempotency-Key")
    assert early.headers["retry-after"] == "1"
    assert first[0].status_code == 200


def test_while_answers_cannot_be_kept_nothing_is_done(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Transient("Redis does not respond", code="redis_unavailable")

    asked = body(here)
    monkeypatch.setattr(kept(here), "begin", away)
    refused(post(here, "a", **asked), 503, "redis_unavailable")
    assert here.jobs.list(None, 10) == []


def test_a_study_and_its_jobs_are_created_once(here: Here) -> None:
    asked = body(here)
    asked["method"] = {"type": "qcrd", "qcrd": {**TASK, "negatives": {"lag": 1}}}
    wanted = {"job": asked, "methods": ["finetune", "qcrd"], "baseline": "finetune"}
    first, second = (
        post(here, "s", "/v1/studies", **wanted),
        post(here, "s", "/v1/studies", **wanted),
    )
    assert first.status_code == 200, first.text
    assert first.content == second.content
    assert len(here.jobs.list(None, 10)) == 2
