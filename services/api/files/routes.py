"""`/v1/files`: upload, list, describe, read back, delete."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from qcrd.errors import NotFound
from qcrd.records import rest
from services.api.dependencies import CallerDep, GatewayDep, inject
from services.api.files import multipart
from services.api.files import service as files
from services.api.files.upload import (
    MAX_LIFETIME_SECONDS,
    MIN_LIFETIME_SECONDS,
    UploadService,
)
from services.api.http import idempotency, serializers

UploadServiceDep = Annotated[UploadService, inject(UploadService)]


class JsonLinesResponse(StreamingResponse):
    media_type = "application/jsonl"


MEDIA_TYPES = {
    "jsonl": JsonLinesResponse.media_type,
    "json": "application/json",
    "csv": "text/csv",
    "tsv": "text/tab-separated-values",
    "parquet": "application/vnd.apache.parquet",
}


router = APIRouter(prefix="/v1/files", tags=["files"])


FILE_DESCRIPTION = (
    "questions, as JSON lines, a JSON array, CSV, TSV or Parquet; with columns of our names or of "
    "its own, or in the forms of OpenAI's fine-tuning files"
)
UPLOAD_FORM_SCHEMA = {
    "required": ["file", "purpose"],
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary", "description": FILE_DESCRIPTION},
        "purpose": {"type": "string", "enum": list(files.PURPOSES)},
        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
        "expires_after[seconds]": {
            "type": "integer",
            "minimum": MIN_LIFETIME_SECONDS,
            "maximum": MAX_LIFETIME_SECONDS,
        },
    },
}


@router.post(
    "",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {multipart.MULTIPART_TYPE: {"schema": UPLOAD_FORM_SCHEMA}},
        }
    },
)
async def create_file(
    gateway: GatewayDep, caller: CallerDep, uploads: UploadServiceDep, request: Request
) -> rest.FileObject:
    """Upload a file, which is checked as it arrives; the fields may come in any order."""
    boundary = multipart.parse_boundary(request.headers.get("content-type", ""))
    idempotency_name = idempotency.get_entry_name(request.scope)
    stored = await uploads.receive_file(
        gateway.store,
        request.receive,
        boundary,
        limit=gateway.settings.files.max_file_bytes,
        owner=caller.name,
        check_digest=lambda sha256: idempotency.record_upload(
            gateway.shared.idempotency_store, idempotency_name, sha256
        ),
    )
    return serializers.serialize_file(stored)


@router.get("")
def list_files(
    gateway: GatewayDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: str | None = None,
) -> rest.Page[rest.FileObject]:
    """List files, those of a purpose where it is given."""
    stored_files, has_more = files.list_files(
        gateway.store, after=after, limit=limit, order=order, purpose=purpose
    )
    return serializers.build_page(
        [serializers.serialize_file(stored) for stored in stored_files], has_more=has_more
    )


@router.get("/{file_id}")
def retrieve_file(gateway: GatewayDep, file_id: str) -> rest.FileObject:
    return serializers.serialize_file(files.get_file(gateway.store, file_id))


@router.get(
    "/{file_id}/content",
    response_model=None,
    responses={
        200: {
            "content": {media_type: {} for media_type in MEDIA_TYPES.values()},
            "description": "The file as it came",
        }
    },
)
def download_file(gateway: GatewayDep, file_id: str) -> JsonLinesResponse:
    stored = files.get_file(gateway.store, file_id)
    headers = {
        "Content-Length": str(stored.bytes),
        "Content-Disposition": f'attachment; filename="data.{stored.data.format}"',
        "X-Content-Type-Options": "nosniff",
    }
    media_type = MEDIA_TYPES.get(stored.data.format)
    content = files.iter_content(gateway.store, stored)
    return JsonLinesResponse(content, headers=headers, media_type=media_type)


@router.delete("/{file_id}")
def delete_file(gateway: GatewayDep, caller: CallerDep, file_id: str) -> rest.DeleteResponse:
    files.delete_file(gateway.store, gateway.jobs, file_id, caller)
    return rest.DeleteResponse(id=file_id, object="file")


uploads_router = APIRouter(prefix="/v1/uploads")


@uploads_router.api_route("", methods=["GET", "POST"], include_in_schema=False)
@uploads_router.api_route("/{rest:path}", methods=["GET", "POST"], include_in_schema=False)
def refuse_upload_in_parts(gateway: GatewayDep, rest: str = "") -> None:
    """Tell clients of OpenAI's uploads in parts where files go here."""
    limit = gateway.settings.files.max_file_bytes
    raise NotFound(
        f"there are no uploads in parts: POST /v1/files takes a whole file of up to {limit} bytes",
        code="unknown_url",
    )
