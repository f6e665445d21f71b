"""Whom the server tells, in which words, and how long it goes on trying."""

from __future__ import annotations

import base64
import json
import os
import time
from email.utils import formatdate

import openai
import pytest
import standardwebhooks
from pydantic import SecretStr, ValidationError

from qcrd.errors import Invalid
from qcrd.records.webhooks import WebhookDelivery
from services.api.webhooks.sender import (
    LEASE_SECONDS,
    RETRY_SCHEDULE,
    compute_retry_delay,
    parse_response,
)
from services.api.webhooks.signing import (
    WebhookSettings,
    build_payload,
    build_signed_headers,
    check_webhook_url,
)

SECRET = "whsec_" + base64.b64encode(os.urandom(32)).decode()
DELIVERY = WebhookDelivery(
    id="evt_" + "a" * 24,
    job_id="ftjob-" + "b" * 24,
    url="https://example.com/hook",
    type="fine_tuning.job.succeeded",
    created_at=1732500000.9,
)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("QCRD_WEBHOOK_")]:
        monkeypatch.delenv(name)


def settings(*hosts: str) -> WebhookSettings:
    return WebhookSettings(hosts=hosts, secret=SecretStr(SECRET))


def test_openai_s_client_and_standard_webhooks_verify_what_is_sent() -> None:
    signed, sent = (
        build_signed_headers(DELIVERY, time.time(), SecretStr(SECRET)),
        build_payload(DELIVERY),
    )
    event = openai.OpenAI(api_key="x", webhook_secret=SECRET).webhooks.unwrap(sent, signed)
    assert event.type == "fine_tuning.job.succeeded"
    assert (event.id, event.object, event.created_at) == (DELIVERY.id, "event", 1732500000)
    assert event.data.id == DELIVERY.job_id
    assert standardwebhooks.Webhook(SECRET).verify(sent, signed) == json.loads(sent)

    other = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    for wrong in (
        {"webhook-id": "evt_x"},
        {"webhook-timestamp": str(int(signed["webhook-timestamp"]) - 1)},
    ):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            standardwebhooks.Webhook(SECRET).verify(sent, {**signed, **wrong})
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="x", webhook_secret=other).webhooks.unwrap(sent, signed)


def test_a_signature_worked_out_by_hand() -> None:
    """HMAC-SHA256 of `evt_aa….1732500001.{…}` under 24 zero bytes, by openssl's `dgst -hmac`."""
    zeros = SecretStr("whsec_" + base64.b64encode(bytes(24)).decode())
    signed = build_signed_headers(DELIVERY, 1732500001.5, zeros)
    assert signed["webhook-timestamp"] == "1732500001"
    assert signed["webhook-signature"] == "v1,DnT9ZjxxqKgDpYlhGCq9QiPBucj+SDmh60omStG/blw="


@pytest.mark.parametrize(
    ("listed", "url"),
    [
        ("example.com", "https://example.com/hook?token=1"),
        ("example.com", "https://EXAMPLE.com:443/"),
        ("example.com:8443", "https://example.com:8443/a/b"),
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000/hook"),
        ("other.org, example.com", "https://example.com"),
        ("[::1]:444", "https://[::1]:444/"),
    ],
)
def test_listed_hosts_are_told(listed: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_WEBHOOK_HOSTS", listed)
    monkeypatch.setenv("QCRD_WEBHOOK_SECRET", SECRET)
    check_webhook_url(url, WebhookSettings())


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://example.com/", "QCRD_WEBHOOK_HOSTS"),
        ("https://example.com:444/", "QCRD_WEBHOOK_HOSTS"),
        ("https://example.com.evil.org/", "QCRD_WEBHOOK_HOSTS"),
        ("https://sub.example.com/", "QCRD_WEBHOOK_HOSTS"),
        ("https://169.254.169.254/latest", "QCRD_WEBHOOK_HOSTS"),
        ("https://example.com@evil.org/", "user name"),
        ("https://user:pw@example.com/", "user name"),
        ("https://example.com\\@evil.org/", "user name"),
        ("https://example.com/a b", "https://example.com/hook"),
        ("https://example.com/\r\nx: y", "https://example.com/hook"),
        ("https://exämple.com/", "https://example.com/hook"),
        ("https://example.com:x/", "https://example.com/hook"),
        ("https://example.com:99999/", "https://example.com/hook"),
        ("https://[::1/", "https://example.com/hook"),
        ("ftp://example.com/", "https://example.com/hook"),
        ("//example.com/", "https://example.com/hook"),
        ("example.com", "https://example.com/hook"),
        ("", "https://example.com/hook"),
    ],
)
def test_all_others_are_refused_by_the_field_with_the_fix(url: str, says: str) -> None:
    with pytest.raises(Invalid) as raised:
        check_webhook_url(url, settings("example.com"))
    assert (raised.value.param, raised.value.code) == ("webhook", "webhook_refused")
    assert says in raised.value.message
    assert "pw" not in raised.value.message


def test_a_server_without_hosts_refuses_every_webhook() -> None:
    check_webhook_url(None, WebhookSettings())
    with pytest.raises(Invalid, match="QCRD_WEBHOOK_HOSTS"):
        check_webhook_url("https://example.com/", WebhookSettings())


@pytest.mark.parametrize(
    "given",
    [
        {"hosts": ("example.com",)},
        {"secret": SecretStr("hunter2")},
        {"secret": SecretStr("whsec_hunter2")},
        {"secret": SecretStr("whsec_" + base64.b64encode(b"hunter2" * 3).decode())},
        {"secret": SecretStr("whsec_" + base64.b64encode(b"hunter2" * 10).decode())},
        {"secret": SecretStr(SECRET), "hosts": ("https://example.com/path",)},
        {"secret": SecretStr(SECRET), "hosts": ("user@example.com",)},
        {"secret": SecretStr(SECRET), "hosts": ("example.com:port",)},
    ],
)
def test_a_wrong_environment_is_refused_without_its_secret(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as raised:
        WebhookSettings.model_validate(given)
    for secret in ("hunter2", "aHVudGVy", SECRET):
        assert secret not in str(raised.value)


def test_a_secret_from_the_environment_is_never_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_WEBHOOK_SECRET", "whsec_hunter2")
    with pytest.raises(ValidationError) as raised:
        WebhookSettings()
    assert "hunter2" not in str(raised.value)
    monkeypatch.setenv("QCRD_WEBHOOK_SECRET", SECRET)
    assert SECRET not in repr(WebhookSettings())


def test_waits_grow_as_the_standard_says_and_are_spread() -> None:
    """5 s, 5 min, 30 min, 2, 5, 10, 14, 20, 24 h: 75.6 h in all, up to a fifth more by chance."""
    assert [compute_retry_delay(n + 1, 0.0, 0.0) for n in range(len(RETRY_SCHEDULE))] == list(
        RETRY_SCHEDULE
    )
    assert sum(RETRY_SCHEDULE) / 3600 == pytest.approx(75.6, abs=0.1)
    assert compute_retry_delay(1, 0.0, 0.5) == pytest.approx(5.5)
    assert compute_retry_delay(1, 40.0, 0.0) == 40.0
    assert compute_retry_delay(2, 40.0, 0.0) == 300.0
    assert compute_retry_delay(1, 1e9, 0.0) == 86400.0
    assert WebhookSettings.model_fields["timeout"].default < LEASE_SECONDS


def test_only_2xx_is_a_yes_and_retry_after_is_seconds_or_a_date() -> None:
    assert [parse_response(status, None).error == "" for status in (200, 204, 299)] == [True] * 3
    for status in (100, 301, 302, 307, 400, 404, 410, 429, 500, 503):
        assert parse_response(status, None).error == f"responded {status}"
    assert parse_response(429, "17").retry_after == 17.0
    at = formatdate(time.time() + 100, usegmt=True)
    assert parse_response(503, at).retry_after == pytest.approx(100, abs=2)
    for neither in ("", "soon", "-5", "1.5", "99999999999999999999", formatdate(0, usegmt=True)):
        assert 0.0 <= parse_response(503, neither).retry_after < 1e9
