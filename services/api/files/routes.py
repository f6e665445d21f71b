"""`/v1/files`: upload, list, describe, read back, delete."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from services.api.dependencies import CallerDep, GatewayDep
from services.api.files import multipart
from services.api.files import service as files
from services.api.http import idempotency, schemas, serializers


class JsonLines(StreamingResponse):
    media_type = "application/jsonl"


router = APIRouter(prefix="/v1/files", tags=["files"])


FORM = {
    "required": ["file", "purpose"],
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary", "description": "questions, JSON lines"},
        "purpose": {"type": "string", "enum": [files.PURPOSE]},
    },
}


@router.post(
    "",
    openapi_extra={
        "requestBody": {"required": True, "content": {multipart.TYPE: {"schema": FORM}}}
    },
)
async def upload(here: GatewayDep, caller: CallerDep, request: Request) -> schemas.FileObject:
    """Read and checked as it arrives; the fields may come in any order."""
    boundary = multipart.boundary(request.headers.get("content-type", ""))
    name = idempotency.name_of(request.scope)
    stored = await here.uploads.take(
        here.store,
        request.receive,
        boundary,
        limit=here.settings.files.max_file_bytes,
        owner=caller.name,
        accept=lambda sha256: idempotency.uploaded(here.shared.idempotency_store, name, sha256),
    )
    return serializers.file(stored)


@router.get("")
def listed(
    here: GatewayDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> schemas.Page[schemas.FileObject]:
    """Every file has the one purpose, so there is none of any other."""
    if purpose not in (None, files.PURPOSE):
        return serializers.page([], has_more=False)
    found, more = files.page(here.store, after=after, limit=limit, order=order)
    return serializers.page([serializers.file(stored) for stored in found], has_more=more)


@router.get("/{file_id}")
def described(here: GatewayDep, file_id: str) -> schemas.FileObject:
    return serializers.file(files.find(here.store, file_id))


@router.get(
    "/{file_id}/content",
    response_model=None,
    responses={200: {"content": {JsonLines.media_type: {}}, "description": "The file as it came"}},
)
def content(here: GatewayDep, file_id: str) -> JsonLines:
    stored = files.find(here.store, file_id)
    headers = {
        "Content-Length": str(stored.bytes),
        "Content-Disposition": 'attachment; filename="data.jsonl"',
        "X-Content-Type-Options": "nosniff",
    }
    return JsonLines(files.content(here.store, stored), headers=headers)


@router.delete("/{file_id}")
def deleted(here: GatewayDep, caller: CallerDep, file_id: str) -> schemas.Deleted:
    files.delete(here.store, here.jobs, file_id, caller)
    return schemas.Deleted(id=file_id, object="file")
