"""The bucket and its user are made once, and again when a key has changed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from qcrd.errors import Transient
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.bucket_setup import StoreAdminSettings, prepare_bucket
from qcrd.runtime.storage.s3 import S3Store
from tests import serving
from tests.fakes.minio import FakeMinio

ADMIN = StoreAdminSettings(access_key="root-of-all", secret_key=SecretStr("root-secret"))


@pytest.fixture
def minio() -> FakeMinio:
    return FakeMinio(admin=("root-of-all", "root-secret"))


@pytest.fixture
def settings(minio: FakeMinio) -> Iterator[StoreSettings]:
    with serving.app(minio.app()) as url:
        yield StoreSettings(endpoint=url, access_key="ours", secret_key=SecretStr("our-secret"))


def test_a_user_of_one_bucket_is_made(minio: FakeMinio, settings: StoreSettings) -> None:
    for _ in range(2):
        prepare_bucket(settings, ADMIN)
    assert minio.buckets == {"qcrd"}
    assert minio.users == {"ours": "our-secret"}
    assert minio.given == {"ours": "qcrd"}
    resources = {r for s in minio.policies["qcrd"]["Statement"] for r in s["Resource"]}
    assert resources == {"arn:aws:s3:::qcrd", "arn:aws:s3:::qcrd/*"}
    actions = {action for s in minio.policies["qcrd"]["Statement"] for action in s["Action"]}
    assert all(action.startswith("s3:") and "*" not in action for action in actions)
    other = S3Store(settings.model_copy(update={"bucket": "other"}))
    with pytest.raises(Transient, match="QCRD_S3_ACCESS_KEY"):
        other.list("ready/")


def test_a_changed_secret_key_is_the_user_s_new_one(
    minio: FakeMinio, settings: StoreSettings
) -> None:
    prepare_bucket(settings, ADMIN)
    prepare_bucket(settings.model_copy(update={"secret_key": SecretStr("newer")}), ADMIN)
    assert minio.users == {"ours": "newer"}


def test_the_user_of_a_former_access_key_goes_and_no_other(
    minio: FakeMinio, settings: StoreSettings
) -> None:
    """Others than ours have no policy, another one, or another one beside ours."""
    prepare_bucket(settings, ADMIN)
    given = {"reader": "readonly", "analyst": "qcrd,readonly"}
    minio.given |= given
    minio.users |= dict.fromkeys(("reader", "analyst", "idle"), "x")
    newer = settings.model_copy(update={"access_key": "newer"})
    for _ in range(2):
        prepare_bucket(newer, ADMIN)
    assert minio.users.keys() == {"newer", "reader", "analyst", "idle"}
    assert minio.given == {"newer": "qcrd", **given}
    with pytest.raises(Transient, match="QCRD_S3_ACCESS_KEY"):
        S3Store(settings).list("ready/")


def test_wrong_admin_keys_are_named(minio: FakeMinio, settings: StoreSettings) -> None:
    minio.buckets.add("qcrd")
    minio.policies["all"] = {
        "Statement": [{"Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::qcrd"]}]
    }
    minio.given["stranger"] = "all"
    stranger = StoreAdminSettings(access_key="stranger", secret_key=SecretStr("x" * 8))
    with pytest.raises(Transient, match=r"AccessDenied.*QCRD_S3_ADMIN_ACCESS_KEY"):
        prepare_bucket(settings, stranger)


def test_without_admin_keys_the_bucket_is_made_with_our_own(s3_settings: StoreSettings) -> None:
    settings = s3_settings.model_copy(update={"bucket": f"made-{uuid.uuid4().hex}"})
    prepare_bucket(settings, StoreAdminSettings())
    S3Store(settings).put("ready/a", b"x")
    assert S3Store(settings).list("ready/") == ["ready/a"]


def test_half_of_the_admin_keys_is_refused() -> None:
    with pytest.raises(ValueError, match="QCRD_S3_ADMIN_SECRET_KEY"):
        StoreAdminSettings(access_key="root")
