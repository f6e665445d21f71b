from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from qcrd.runtime.jobs.reaper import RESEND_SECONDS
from qcrd.runtime.jobs.stage_context import WorkerDeps
from qcrd.runtime.jobs.state_machine import LEASE_TTL
from qcrd.runtime.settings import (
    LogSettings,
    ModelSettings,
    RecoverySettings,
    RedisSettings,
    StoreSettings,
    load_settings,
)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "QCRD_REDIS_URL": "redis://redis:6379/3",
        "QCRD_S3_ENDPOINT": "minio:9000",
        "QCRD_S3_ACCESS_KEY": "key",
        "QCRD_S3_SECRET_KEY": "secret",
        "QCRD_S3_SECURE": "true",
        "QCRD_S3_PUBLIC_ENDPOINT": "",
        "QCRD_MODELS_DIR": "~/bases",
        "QCRD_LOG_LEVEL": "DEBUG",
    }.items():
        monkeypatch.setenv(name, value)
    store = StoreSettings()
    assert RedisSettings().url == "redis://redis:6379/3"
    assert (store.endpoint, store.access_key, store.secure) == ("minio:9000", "key", True)
    assert store.public_endpoint is None
    assert store.secret_key.get_secret_value() == "secret"
    assert ModelSettings().models_dir == Path.home() / "bases"
    assert LogSettings().level == "DEBUG"


def test_a_secret_is_not_in_what_is_printed() -> None:
    assert "hunter2" not in repr(StoreSettings(secret_key="hunter2"))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        StoreSettings().bucket = "other"  # type: ignore[misc]


def test_a_lease_shorter_than_two_heartbeats_is_refused_with_both_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("QCRD_LEASE_SECONDS", "15")
    with pytest.raises(ValidationError, match=r"QCRD_LEASE_SECONDS.*QCRD_HEARTBEAT_SECONDS"):
        RecoverySettings()
    monkeypatch.setenv("QCRD_HEARTBEAT_SECONDS", "5")
    assert RecoverySettings().lease_seconds == 15.0


def test_unset_recovery_times_are_those_of_the_functions_they_are_given_to() -> None:
    given = RecoverySettings()
    assert (given.heartbeat_seconds, given.lease_seconds) == (WorkerDeps.heartbeat, LEASE_TTL)
    assert given.resend_seconds == RESEND_SECONDS


@pytest.mark.parametrize(
    ("endpoint", "host", "secure"),
    [
        ("http://127.0.0.1:9000", "127.0.0.1:9000", False),
        ("https://s3.example.org/", "s3.example.org", True),
        ("HTTP://[::1]:9000", "[::1]:9000", False),
        ("minio:9000", "minio:9000", True),
    ],
)
def test_an_endpoint_with_its_scheme_decides_whether_it_is_secure(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, host: str, secure: bool
) -> None:
    monkeypatch.setenv("QCRD_S3_SECURE", "true")
    monkeypatch.setenv("QCRD_S3_ENDPOINT", endpoint)
    settings = StoreSettings()
    assert (settings.endpoint, settings.secure) == (host, secure)


def test_a_public_endpoint_may_have_the_same_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCRD_S3_ENDPOINT", "http://minio:9000")
    monkeypatch.setenv("QCRD_S3_PUBLIC_ENDPOINT", "http://localhost:9000")
    assert StoreSettings().public_endpoint == "localhost:9000"


@pytest.mark.parametrize(
    ("variable", "endpoint"),
    [
        ("QCRD_S3_ENDPOINT", "http://minio:9000/bucket"),
        ("QCRD_S3_ENDPOINT", "ftp://minio"),
        ("QCRD_S3_ENDPOINT", "minio:9000/bucket"),
        ("QCRD_S3_PUBLIC_ENDPOINT", "https://localhost:9000"),
    ],
)
def test_an_endpoint_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, endpoint: str
) -> None:
    monkeypatch.setenv(variable, endpoint)
    with pytest.raises(SystemExit, match=f"^invalid environment: {variable}: .*HOST:PORT"):
        load_settings(StoreSettings)
