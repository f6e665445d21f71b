"""Uploaded files: checked on arrival, stored under an id that is a digest of their content.

So the same file uploaded twice is one file with one id, and a training file that comes back as the
test file is noticed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from qcrd.errors import Conflict, Invalid, NotFound
from qcrd.records import Job, JobSpec, StoredFile
from qcrd.runtime import keys
from qcrd.runtime.jobs import TERMINAL, JobStore
from qcrd.runtime.store import Store, read_record, write_record
from services.api.errors import TooLarge
from services.api.validate import Row, read_rows

PURPOSE = "fine-tune"
CHUNK = 1 << 20


def keep(
    store: Store, data: BinaryIO, *, filename: str, purpose: str, size: int, limit: int
) -> StoredFile:
    """Check and store `size` bytes of `data`; the description is written last."""
    if purpose != PURPOSE:
        raise Invalid(f"`purpose` must be `{PURPOSE}`, not {purpose[:40]!r}", param="purpose")
    if size > limit:
        raise TooLarge(f"`file` has {size} bytes, the limit is {limit}", param="file")
    lines = sum(1 for _ in read_rows(data))
    data.seek(0)
    sha256 = _sha256(data)
    file_id = f"file-{sha256[:24]}"
    try:
        return find(store, file_id)
    except NotFound:
        data.seek(0)
        store.put(keys.file_key(file_id), data, length=size)
    stored = StoredFile(
        id=file_id,
        filename=_plain(filename),
        purpose=purpose,
        bytes=size,
        created_at=time.time(),
        sha256=sha256,
        lines=lines,
    )
    write_record(store, keys.file_meta_key(file_id), stored)
    return stored


def find(store: Store, file_id: str, param: str = "file_id") -> StoredFile:
    key = keys.file_meta_key(keys.check_id(file_id, param))
    try:
        return read_record(store, key, StoredFile)
    except NotFound as error:
        raise NotFound(
            f"`{param}`: there is no file {file_id}: upload it with POST /v1/files",
            param=param,
            code="file_not_found",
        ) from error


def newest_first(store: Store) -> list[StoredFile]:
    found = [
        read_record(store, key, StoredFile)
        for key in store.list(keys.FILES)
        if key.endswith("/meta.json")
    ]
    return sorted(found, key=lambda stored: (stored.created_at, stored.id), reverse=True)


def rows(store: Store, file_id: str) -> list[Row]:
    with store.open(keys.file_key(file_id)) as data:
        return list(read_rows(data))


def content(store: Store, file_id: str) -> Iterator[bytes]:
    with store.open(keys.file_key(file_id)) as data:
        while chunk := data.read(CHUNK):
            yield chunk


def delete(store: Store, jobs: JobStore, file_id: str) -> None:
    """The description first, so that nobody finds half a file. `Conflict` while a job needs it."""
    find(store, file_id)
    for job in _active(jobs):
        if file_id in named(job.spec).values():
            raise Conflict(f"job {job.id} needs file {file_id}: cancel it or wait for its end")
    store.delete(keys.file_meta_key(file_id))
    store.delete(keys.file_key(file_id))


def named(spec: JobSpec) -> dict[str, str]:
    """The ids of the files that `spec` names, by the path of the field that does."""
    fields = {
        "training_file": spec.training_file,
        "validation_file": spec.validation_file,
        "test_file": spec.test_file,
        f"method.{spec.method}.rationales.import": spec.settings.rationales.import_file,
    }
    return {param: file_id for param, file_id in fields.items() if file_id is not None}


def _sha256(data: BinaryIO) -> str:
    whole = hashlib.sha256()
    while chunk := data.read(CHUNK):
        whole.update(chunk)
    return whole.hexdigest()


def _active(jobs: JobStore) -> Iterator[Job]:
    after: str | None = None
    while page := jobs.list(after, 100, active=True):
        yield from (job for job in page if job.status not in TERMINAL)
        after = page[-1].id


def _plain(filename: str) -> str:
    """The last part of the name, printable: it is shown, never used as a path."""
    last = PurePosixPath(filename.replace("\\", "/")).name
    return "".join(letter for letter in last if letter.isprintable())[:255] or "file"
