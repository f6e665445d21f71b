"""What the routes make of webhooks and of event streams that begin in the wrong place."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from services.api.dependencies import Gateway, get_service
from tests.unit.api.gateway_client import Here, refused, sums

EVENTS = "/v1/fine_tuning/jobs/{}/events?stream=true"


@pytest.fixture
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A gateway that sends webhooks to one host."""
    monkeypatch.setenv("QCRD_WEBHOOK_HOSTS", "example.com")
    secret = "whsec_" + base64.b64encode(b"s" * 32).decode()
    monkeypatch.setenv("QCRD_WEBHOOK_SECRET", secret)
    return Here(tmp_path / "telling")


def test_a_webhook_is_refused_where_none_is_sent(here: Here) -> None:
    answer = here.create(here.file(sums(4)), webhook="https://example.com/hook")
    assert "QCRD_WEBHOOK_HOSTS" in refused(answer, 400, "webhook_refused", "webhook")
    assert here.create(here.file(sums(4)), webhook=None).status_code == 200


def test_the_end_of_a_job_is_owed_to_its_webhook_once(telling: Here) -> None:
    training = telling.file(sums(4))
    elsewhere = telling.create(training, webhook="https://example.org/hook")
    assert "https://example.org:443" in refused(elsewhere, 400, "webhook_refused", "webhook")
    assert telling.create(training, webhook=["https://example.com/"]).status_code == 400
    job = telling.create(training, webhook="https://example.com/hook").json()["id"]
    quiet = telling.create(training).json()["id"]
    for job_id in (job, quiet):
        assert telling.client.post(f"/v1/fine_tuning/jobs/{job_id}/cancel").status_code == 200
    [owed] = get_service(telling.app, Gateway).webhook_queue.claim_due(9e9, lease=1, limit=9)
    assert (owed.job_id, owed.type) == (job, "fine_tuning.job.cancelled")
    assert owed.url == "https://example.com/hook"


@pytest.mark.parametrize(
    ("query", "headers", "param"),
    [
        ("&after=yesterday", {}, "after"),
        ("", {"Last-Event-ID": "yesterday"}, "Last-Event-ID"),
        ("&after=0-0", {"Last-Event-ID": "1-1-1"}, "Last-Event-ID"),
        ("", {"Last-Event-ID": "٣-1"}, "Last-Event-ID"),
    ],
)
def test_a_stream_that_begins_after_no_event_is_refused(
    query: str, headers: dict[str, str], param: str, here: Here
) -> None:
    job = here.create(here.file(sums(4))).json()["id"]
    encoded = {name: value.encode() for name, value in headers.items()}
    answer = here.client.get(EVENTS.format(job) + query, headers=encoded)
    refused(answer, 400, "invalid_value", param)
