"""`/v1/files`: upload, list, describe, read back, delete."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, UploadFile
from fastapi.responses import StreamingResponse

from qcrd.errors import Invalid
from services.api import files, wire
from services.api.gateway import Here

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("")
def upload(here: Here, file: UploadFile, purpose: Annotated[str, Form()]) -> wire.FileObject:
    stored = files.keep(
        here.store,
        file.file,
        filename=file.filename or "",
        purpose=purpose,
        size=file.size or 0,
        limit=here.settings.files.max_file_bytes,
    )
    return wire.file(stored)


@router.get("")
def listed(
    here: Here,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    purpose: str | None = None,
) -> wire.Page[wire.FileObject]:
    found = [f for f in files.newest_first(here.store) if purpose in (None, f.purpose)]
    if after is not None:
        places = [place for place, stored in enumerate(found) if stored.id == after]
        if not places:
            raise Invalid(f"`after`: there is no file {after[:80]!r}", param="after")
        found = found[places[0] + 1 :]
    return wire.page([wire.file(f) for f in found[:limit]], has_more=len(found) > limit)


@router.get("/{file_id}")
def described(here: Here, file_id: str) -> wire.FileObject:
    return wire.file(files.find(here.store, file_id))


@router.get("/{file_id}/content")
def content(here: Here, file_id: str) -> StreamingResponse:
    stored = files.find(here.store, file_id)
    headers = {
        "Content-Length": str(stored.bytes),
        "Content-Disposition": 'attachment; filename="data.jsonl"',
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(
        files.content(here.store, file_id), media_type="application/jsonl", headers=headers
    )


@router.delete("/{file_id}")
def deleted(here: Here, file_id: str) -> wire.Deleted:
    files.delete(here.store, here.jobs, file_id)
    return wire.Deleted(id=file_id, object="file")
