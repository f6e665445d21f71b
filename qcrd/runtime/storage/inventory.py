"""What a sweeper has to see of the object store: sizes, ages, and uploads that broke off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.store import MemoryStore, Store


@dataclass(frozen=True, slots=True)
class StoredObject:
    """`modified` in seconds since the epoch, by the store's clock."""

    key: str
    bytes: int
    modified: float


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """The parts of a large object that was neither completed nor given up."""

    key: str
    upload_id: str
    started: float


class InventoriedStore(Store, Protocol):
    def list_objects(self, prefix: str) -> list[StoredObject]:
        """The objects whose keys start with `prefix`, in order."""

    def list_open_uploads(self) -> list[OpenUpload]: ...

    def abort_upload(self, upload: OpenUpload) -> None:
        """Delete the parts. Idempotent."""


class InventoriedS3Store(S3Store):
    def list_objects(self, prefix: str) -> list[StoredObject]:
        with self._translate_errors(prefix):
            entries = self._ensure_bucket().list_objects(
                self._bucket, prefix=prefix, recursive=True
            )
            found = [
                StoredObject(
                    entry.object_name,
                    entry.size or 0,
                    entry.last_modified.timestamp() if entry.last_modified else time.time(),
                )
                for entry in entries
                if entry.object_name
            ]
        return sorted(found, key=lambda each: each.key)

    def list_open_uploads(self) -> list[OpenUpload]:
        with self._translate_errors("?uploads"):
            return list(self._iter_open_uploads())

    def _iter_open_uploads(self) -> Iterator[OpenUpload]:
        """The client uses both requests itself, and has no public method for them."""
        client, key_marker, upload_marker = self._ensure_bucket(), None, None
        while True:
            page = client._list_multipart_uploads(
                self._bucket, key_marker=key_marker, upload_id_marker=upload_marker
            )
            for each in page.uploads:
                started = each.initiated_time.timestamp() if each.initiated_time else time.time()
                yield OpenUpload(each.object_name, each.upload_id or "", started)
            if not page.is_truncated:
                return
            key_marker, upload_marker = page.next_key_marker, page.next_upload_id_marker

    def abort_upload(self, upload: OpenUpload) -> None:
        with self._translate_errors(upload.key):
            self._ensure_bucket()._abort_multipart_upload(
                self._bucket, upload.key, upload.upload_id
            )


class InventoriedMemoryStore(MemoryStore):
    """`modified` can be set, by key, to make an object old. `open_uploads` is what is listed."""

    def __init__(self) -> None:
        super().__init__()
        self.modified: dict[str, float] = {}
        self.open_uploads: list[OpenUpload] = []

    def put(self, key: str, data: bytes | BinaryIO, *, length: int = -1) -> None:
        super().put(key, data, length=length)
        self.modified[key] = time.time()

    def list_objects(self, prefix: str) -> list[StoredObject]:
        found = []
        for key in self.list(prefix):
            with self.open(key) as body:
                found.append(StoredObject(key, len(body.read()), self.modified[key]))
        return found

    def list_open_uploads(self) -> list[OpenUpload]:
        return list(self.open_uploads)

    def abort_upload(self, upload: OpenUpload) -> None:
        self.open_uploads = [each for each in self.open_uploads if each != upload]


def open_inventoried_store(settings: StoreSettings) -> InventoriedStore:
    return InventoriedS3Store(settings)
