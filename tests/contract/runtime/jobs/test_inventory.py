"""What a sweeper sees of a real object store: sizes, ages, uploads that broke off."""

from __future__ import annotations

import time

import pytest
from minio import Minio

from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.inventory import (
    InventoriedMemoryStore,
    InventoriedS3Store,
    InventoriedStore,
)


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> InventoriedStore:
    if request.param == "memory":
        return InventoriedMemoryStore()
    return InventoriedS3Store(request.getfixturevalue("fresh_s3_settings"))


def test_objects_have_a_size_and_an_age(store: InventoriedStore) -> None:
    store.put("a/2", b"12345")
    store.put("a/1", b"")
    store.put("b/1", b"1")
    found = store.list_objects("a/")
    assert [(each.key, each.bytes) for each in found] == [("a/1", 0), ("a/2", 5)]
    assert all(abs(each.modified - time.time()) < 60 for each in found)
    assert store.list_open_uploads() == []


def test_a_list_is_read_by_pages(store: InventoriedStore) -> None:
    for number in range(7):
        store.put(f"a/{number}", b"")
    assert store.list("a/", limit=3) == ["a/0", "a/1", "a/2"]
    assert store.list("a/", after="a/2", limit=3) == ["a/3", "a/4", "a/5"]
    assert store.list("a/", after="a/45") == ["a/5", "a/6"]


def test_parts_of_an_upload_that_broke_off_are_found_and_deleted(
    fresh_s3_settings: StoreSettings,
) -> None:
    """The upload is begun as a gateway that is then killed begins it."""
    store = InventoriedS3Store(fresh_s3_settings)
    store.put("whole", b"x")
    client = Minio(
        fresh_s3_settings.endpoint,
        access_key=fresh_s3_settings.access_key,
        secret_key=fresh_s3_settings.secret_key.get_secret_value(),
        secure=False,
    )
    upload_id = client._create_multipart_upload(fresh_s3_settings.bucket, "uploads/half", {})
    client._upload_part(
        fresh_s3_settings.bucket, "uploads/half", b"y" * (5 << 20), {}, upload_id, 1
    )
    [found] = store.list_open_uploads()
    assert (found.key, found.upload_id) == ("uploads/half", upload_id)
    assert abs(found.started - time.time()) < 3600
    store.abort_upload(found)
    store.abort_upload(found)
    assert store.list_open_uploads() == []
    assert store.list("") == ["whole"]
