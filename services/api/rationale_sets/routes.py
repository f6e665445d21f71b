"""`/v1/rationale_sets`: the teacher's rationales, votes, judge scores and users' edits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from qcrd.records.rest import Page
from services.api.dependencies import CallerDep, inject
from services.api.rationale_sets.schemas import (
    EditRequest,
    ExportQuery,
    ItemPage,
    ItemQuery,
    ItemWithHistory,
    RationaleSetObject,
    RationaleSetSummary,
)
from services.api.rationale_sets.service import RationaleSetService

router = APIRouter(prefix="/v1/rationale_sets", tags=["rationale sets"])


RationaleSetsDep = Annotated[RationaleSetService, inject(RationaleSetService)]


@router.get("")
def list_rationale_sets(
    rationale_sets: RationaleSetsDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[RationaleSetSummary]:
    """Newest first."""
    return rationale_sets.list_sets(after, limit)


@router.get("/{set_id}")
def retrieve_rationale_set(rationale_sets: RationaleSetsDep, set_id: str) -> RationaleSetObject:
    return rationale_sets.get_set(set_id)


@router.get("/{set_id}/items")
def list_rationale_set_items(
    rationale_sets: RationaleSetsDep, set_id: str, query: Annotated[ItemQuery, Query()]
) -> ItemPage:
    """In the set's own order, which edits do not change. A page whose items are far apart may be
    shorter than `limit`; `has_more` says whether it was the last."""
    return rationale_sets.list_items(set_id, query)


@router.get("/{set_id}/items/{item_id}")
def retrieve_rationale_set_item(
    rationale_sets: RationaleSetsDep, set_id: str, item_id: str, judge: str | None = None
) -> ItemWithHistory:
    return rationale_sets.get_item(set_id, item_id, judge)


@router.patch("/{set_id}/items/{item_id}")
def update_rationale_set_item(
    rationale_sets: RationaleSetsDep,
    caller: CallerDep,
    set_id: str,
    item_id: str,
    body: EditRequest,
) -> ItemWithHistory:
    """Exclude an item, include it again, or reword it, for the jobs that begin to train from now
    on. The original and every edit stay, with author, time and reason."""
    return rationale_sets.edit_item(set_id, item_id, body, caller)


@router.get(
    "/{set_id}/export",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {"schema": {"type": "string"}}}}},
)
def export_rationale_set(
    rationale_sets: RationaleSetsDep, set_id: str, query: Annotated[ExportQuery, Query()]
) -> StreamingResponse:
    """JSON lines, edits applied: an item a line with everything about it (excluded ones are marked;
    `excluded=false` leaves them out), or with `format=questions` a questions file to import."""
    headers = {
        "Content-Disposition": f'attachment; filename="{query.format}.jsonl"',
        "X-Content-Type-Options": "nosniff",
    }
    body = rationale_sets.export_items(set_id, query)
    return StreamingResponse(body, media_type="application/jsonl", headers=headers)
