"""Where the object store's credentials come from, and what a store's refusals become."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import ValidationError

from qcrd.errors import QcrdError, Transient
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.credentials import ROLE_VARIABLES, STORE_REFUSES
from qcrd.runtime.storage.s3 import S3Store
from tests.unit.runtime.storage.aws import Aws, serve_aws

ENDPOINT = "127.0.0.1:9"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Aws]:
    """A machine whose environment names no credentials."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_REGION", "AWS_EC2_METADATA_DISABLED")
    for name in (*names, *ROLE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    with serve_aws() as served:
        yield served


def get_signature(store: S3Store) -> dict[str, str]:
    """What a link of the store is signed with."""
    query = parse_qs(urlsplit(store.presign_url("a", seconds=60)).query)
    return {name.removeprefix("X-Amz-"): values[0] for name, values in query.items()}


def test_settings_are_signed_with_and_the_region_is_theirs() -> None:
    settings = StoreSettings(
        access_key="key", secret_key="secret", session_token="session", region="eu-central-1"
    )
    signature = get_signature(S3Store(settings))
    key, _, region, _, _ = signature["Credential"].split("/")
    assert (key, region, signature["Security-Token"]) == ("key", "eu-central-1", "session")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"ACCESS_KEY": "key"}, "QCRD_S3_SECRET_KEY"),
        ({"SESSION_TOKEN": "session"}, "QCRD_S3_ACCESS_KEY"),
        ({"REGION": "EU Central"}, "region"),
        ({"CREDENTIALS_URL": "sts:9000"}, "credentials_url"),
    ],
)
def test_half_of_the_credentials_is_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], named: str
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"QCRD_S3_{name}", value)
    with pytest.raises(ValidationError, match=named):
        StoreSettings()


def test_an_instance_role_is_asked_for_again_before_it_expires(aws: Aws) -> None:
    store = S3Store(StoreSettings(endpoint=ENDPOINT, credentials_url=aws.url))
    first = get_signature(store)
    assert first["Credential"].startswith("ASIA1/")
    assert first["Security-Token"] == "session-1"
    assert get_signature(store)["Security-Token"] == "session-1"
    aws.valid_seconds = 5
    expiring = S3Store(StoreSettings(endpoint=ENDPOINT, credentials_url=aws.url))
    tokens = [get_signature(expiring)["Security-Token"] for _ in range(2)]
    assert tokens == ["session-2", "session-3"]


def test_a_web_identity_is_exchanged_and_a_new_one_ends_the_wait(
    aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("an-expired-jwt")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(token_file))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/qcrd")
    store = S3Store(StoreSettings(endpoint=ENDPOINT, credentials_url=aws.url))
    with pytest.raises(Transient, match="QCRD_S3_ACCESS_KEY") as raised:
        get_signature(store)
    assert raised.value.code == STORE_REFUSES
    assert "an-expired-jwt" not in str(raised.value)
    token_file.write_text(aws.web_identity)
    assert get_signature(store)["Security-Token"] == "session-1"


def test_the_credentials_file_is_read_again_when_its_keys_are_rotated(
    aws: Aws, tmp_path: Path
) -> None:
    store = S3Store(StoreSettings(endpoint=ENDPOINT, credentials_url=aws.url))
    for key in ("old", "new"):
        text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n"
        (tmp_path / "credentials").write_text(text)
        assert get_signature(store)["Credential"].startswith(f"{key}/")
    assert aws.requests == []


def test_without_any_source_the_settings_are_named(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    store = S3Store(StoreSettings(endpoint=ENDPOINT, credentials_url=aws.url))
    with pytest.raises(Transient, match=r"no credentials.*QCRD_S3_ACCESS_KEY") as raised:
        store.put("a", b"x")
    assert raised.value.code == STORE_REFUSES
    assert aws.requests == []


@pytest.mark.parametrize(
    ("status", "kind", "code", "named"),
    [
        (403, "application/xml", "AccessDenied", "QCRD_S3_ACCESS_KEY"),
        (403, "application/xml", "AnyOtherCode", "QCRD_S3_ACCESS_KEY"),
        (400, "application/xml", "ExpiredToken", "QCRD_S3_ACCESS_KEY"),
        (400, "application/xml", "InvalidToken", "QCRD_S3_ACCESS_KEY"),
        (404, "application/xml", "NoSuchBucket", "QCRD_S3_BUCKET"),
        (400, "application/xml", "AuthorizationHeaderMalformed", "QCRD_S3_REGION"),
    ],
)
def test_a_refusal_is_waited_for_and_says_what_to_mend(
    aws: Aws, status: int, kind: str, code: str, named: str
) -> None:
    aws.refusal = (status, kind, code)
    store = S3Store(
        StoreSettings(endpoint=aws.url.removeprefix("http://"), access_key="k", secret_key="s")
    )
    for call in (lambda: store.put("a", b"x"), lambda: store.list("")):
        with pytest.raises(Transient, match=named) as raised:
            call()
        assert raised.value.code == STORE_REFUSES


def test_a_page_of_a_proxy_is_waited_for_and_a_wrong_request_is_not(aws: Aws) -> None:
    store = S3Store(
        StoreSettings(endpoint=aws.url.removeprefix("http://"), access_key="k", secret_key="s")
    )
    aws.refusal = (502, "text/html", "<html>Bad Gateway</html>")
    with pytest.raises(Transient):
        store.put("a", b"x")
    aws.refusal = (400, "application/xml", "EntityTooLarge")
    with pytest.raises(QcrdError, match="EntityTooLarge") as raised:
        store.put("a", b"x")
    assert not isinstance(raised.value, Transient)
