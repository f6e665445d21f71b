"""Uploaded files: checked while they arrive, stored under an id that is a digest of their content.

So the same file uploaded twice has one id, and a training file that is also the test file is
noticed. The digest is known only at the end: the bytes go to a key of their own, and
the description, written last, says where they are.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, cast

from qcrd.errors import Conflict, Invalid, NotFound, QcrdError
from qcrd.questions.duplicates import FirstLines
from qcrd.questions.field_map import FieldMap
from qcrd.questions.file_summary import FileSummary
from qcrd.questions.rows import QuestionRow, check_records, read_rows
from qcrd.records.api_keys import ApiKey
from qcrd.records.job import StoredFile
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.data_files.detect import CHUNK_BYTES, FileFormat
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore, check_active_readable
from qcrd.runtime.storage.store import (
    Store,
    find_readable_record,
    note_stray_object,
    read_record,
    write_record,
)
from services.api.files.checked_stream import CheckedStream
from services.api.http.access.ownership import check_owner
from services.api.http.paging import skip_through, take_found

log = logging.getLogger(__name__)

PURPOSES = ("fine-tune", "evals", "user_data")
"""Of OpenAI's purposes, those that files of questions have."""


@dataclass(frozen=True)
class Blob:
    """Stored bytes that no description names yet."""

    key: str
    bytes: int
    sha256: str
    format: FileFormat
    summary: FileSummary


def check_purpose(purpose: str) -> None:
    if purpose not in PURPOSES:
        known = ", ".join(f"`{each}`" for each in PURPOSES)
        raise Invalid(f"`purpose` must be one of {known}, not {purpose[:40]!r}", param="purpose")


def write_blob(store: Store, chunks: Iterable[bytes], *, limit: int) -> Blob:
    """Check and store the bytes. An upload that ends early leaves nothing in the store."""
    key = keys.upload_key(keys.new_id("upload"))
    stream = CheckedStream(chunks, limit)
    store.put(key, cast(BinaryIO, stream))
    assert stream.format is not None  # told when the last byte was read
    try:
        summary = stream.summary or _check_stored(store, key)
    except QcrdError:
        store.delete(key)
        raise
    return Blob(key, stream.byte_count, stream.sha256, stream.format, summary)


def _check_stored(store: Store, key: str) -> FileSummary:
    with store.open(key) as data:
        return check_records(data)


def publish_file(
    store: Store,
    blob: Blob,
    *,
    filename: str,
    owner: str = "anonymous",
    purpose: str = PURPOSES[0],
    lifetime: float | None = None,
) -> StoredFile:
    """Describe the blob, or drop it where the same content is stored already, which stays the
    first uploader's and lives as long as any of its uploads should. `lifetime` in seconds."""
    file_id = f"file-{blob.sha256[:24]}"
    now = time.time()
    expires_at = None if lifetime is None else now + lifetime
    try:
        stored = get_file(store, file_id)
    except NotFound:
        described = StoredFile(
            id=file_id,
            filename=_sanitize_filename(filename),
            purpose=purpose,
            bytes=blob.bytes,
            created_at=now,
            sha256=blob.sha256,
            lines=blob.summary.records,
            blob=blob.key,
            owner=owner,
            data=blob.summary.make_record(blob.format.value),
            expires_at=expires_at,
        )
        store.put(keys.file_time_key(file_id, now), b"")
        stored = _write_metadata(store, described)
    if stored.expires_at is not None and (expires_at is None or expires_at > stored.expires_at):
        stored = _write_metadata(store, stored.model_copy(update={"expires_at": expires_at}))
    if stored.blob != blob.key:
        store.delete(blob.key)
    return stored


def _write_metadata(store: Store, described: StoredFile) -> StoredFile:
    """Write the description and read it back: of two concurrent writes the last one counts. A mark
    beside it lets a pass over the names find what may expire."""
    if described.expires_at is not None:
        store.put(keys.file_expiry_key(described.id), b"")
    write_record(store, keys.file_meta_key(described.id), described)
    return get_file(store, described.id)


def get_file(store: Store, file_id: str, param: str = "file_id") -> StoredFile:
    key = keys.file_meta_key(keys.require_id(file_id, param, "file_not_found"))
    try:
        return read_record(store, key, StoredFile)
    except NotFound as error:
        raise NotFound(
            f"`{param}`: there is no file {file_id}: upload it with POST /v1/files",
            param=param,
            code="file_not_found",
        ) from error


def list_files(
    store: Store,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
    purpose: str | None = None,
) -> tuple[list[StoredFile], bool]:
    """At most `limit` files after file `after`, the only ones read, and whether there are more."""
    ids = _list_file_ids(store, newest_first=order == "desc")

    def find(file_id: str) -> StoredFile | None:
        stored = find_readable_record(store, keys.file_meta_key(file_id), StoredFile)
        return stored if stored is None or purpose in (None, stored.purpose) else None

    return take_found(skip_through(ids, after, "file", str), limit, find)


def _list_file_ids(store: Store, *, newest_first: bool) -> list[str]:
    """File ids by the time in their keys' names; files without a time are older than all others."""
    file_ids: list[str] = []
    times: dict[str, float] = {}
    for key in store.list(keys.FILES):
        file_id, _, name = key.removeprefix(keys.FILES).partition("/")
        if name == "meta.json":
            file_ids.append(file_id)
        elif (created_at := keys.parse_file_time_key(key)) is not None:
            times[file_id] = created_at
        elif name.startswith("at-"):
            note_stray_object(store, key)

    for file_id in file_ids:
        if file_id not in times:
            stored = find_readable_record(store, keys.file_meta_key(file_id), StoredFile)
            times[file_id] = stored.created_at if stored else 0.0
    return sorted(file_ids, key=lambda file_id: (times[file_id], file_id), reverse=newest_first)


def iter_rows(
    store: Store,
    file_id: str,
    fields: FieldMap | None = None,
    *,
    with_repeats: bool = False,
    first_lines: FirstLines | None = None,
) -> Iterator[QuestionRow]:
    """The file's rows, read as they are taken; `fields` are the task's."""
    with open_file(store, get_file(store, file_id)) as data:
        yield from read_rows(data, fields, with_repeats=with_repeats, first_lines=first_lines)


def iter_content(store: Store, stored: StoredFile) -> Iterator[bytes]:
    with open_file(store, stored) as data:
        while chunk := data.read(CHUNK_BYTES):
            yield chunk


@contextmanager
def open_file(store: Store, stored: StoredFile) -> Iterator[BinaryIO]:
    with store.open(_get_blob_key(stored)) as data:
        yield data


def _get_blob_key(stored: StoredFile) -> str:
    return stored.blob or keys.file_key(stored.id)


def delete_file(store: Store, jobs: JobStore, file_id: str, caller: ApiKey) -> None:
    """`Conflict` while a job needs the file, or may: one that this release cannot read."""
    stored = get_file(store, file_id)
    check_owner(f"file {file_id}", stored.owner, caller)
    for job in jobs.iter_active():
        if job.status not in TERMINAL and file_id in get_referenced_files(job.spec).values():
            raise Conflict(f"job {job.id} needs file {file_id}: cancel it or wait for its end")
    check_active_readable(jobs, f"file {file_id}")
    _delete_stored(store, stored)


def delete_expired_files(store: Store, jobs: JobStore, now: float) -> list[str]:
    """The ids of the files whose time is over and that no job needs, which are gone then. None
    while there are jobs that this release cannot read and that may need them."""
    marked = [key for key in store.list(keys.FILES) if keys.is_file_expiry_key(key)]
    if not marked:
        return []
    try:
        check_active_readable(jobs, "what is over")
    except Conflict as error:
        log.warning("no file is deleted whose time is over: %s", error)
        return []
    needed = {
        file_id
        for job in jobs.iter_active()
        if job.status not in TERMINAL
        for file_id in get_referenced_files(job.spec).values()
    }
    deleted = []
    for key in marked:
        file_id = key.removeprefix(keys.FILES).partition("/")[0]
        stored = find_readable_record(store, keys.file_meta_key(file_id), StoredFile)
        if stored is None or stored.expires_at is None or stored.expires_at > now:
            continue
        if file_id not in needed:
            _delete_stored(store, stored)
            deleted.append(file_id)
    return deleted


def _delete_stored(store: Store, stored: StoredFile) -> None:
    """The description first, then the bytes. Only the bytes that it named are deleted: the same
    content may be uploaded anew meanwhile."""
    metadata_key = keys.file_meta_key(stored.id)
    blob_keys = {*store.list(keys.file_prefix(stored.id)), _get_blob_key(stored)} - {metadata_key}
    store.delete(metadata_key)
    for key in blob_keys:
        store.delete(key)


def get_referenced_files(spec: JobSpec) -> dict[str, str]:
    """The ids of the files that `spec` names, by the path of the field that does."""
    fields = {
        "training_file": spec.training_file,
        "validation_file": spec.validation_file,
        "test_file": spec.test_file,
        f"method.{spec.method}.rationales.import": spec.settings.rationales.import_file,
    }
    return {param: file_id for param, file_id in fields.items() if file_id is not None}


def _sanitize_filename(filename: str) -> str:
    """The last part of the name, printable: it is shown, never used as a path."""
    last = PurePosixPath(filename.replace("\\", "/")).name
    return "".join(character for character in last if character.isprintable())[:255] or "file"
