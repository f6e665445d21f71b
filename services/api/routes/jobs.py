"""`/v1/fine_tuning/jobs`: create, list, describe, cancel, and each job's events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from qcrd.records import Job, Status
from qcrd.runtime import jobs
from qcrd.runtime.keys import check_id
from qcrd.runtime.pipeline import conclude
from services.api import follow, wire
from services.api.create import create
from services.api.gateway import Gateway, Here

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=100)]


@router.post("")
def created(here: Here, body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
    return wire.job(create(here, body))


@router.get("")
def listed(here: Here, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    found = here.jobs.list(after and check_id(after, "after"), limit + 1)
    return wire.page([wire.job(job) for job in found[:limit]], has_more=len(found) > limit)


@router.get("/{job_id}")
def described(here: Here, job_id: str) -> dict[str, Any]:
    return wire.job(_job(here, job_id))


@router.post("/{job_id}/cancel")
def cancelled(here: Here, job_id: str) -> dict[str, Any]:
    """What the teacher has already answered is kept for the next job."""
    job = jobs.move(here.jobs, _job(here, job_id).id, Status.CANCELLED)
    conclude(here.events, here.store, job)
    return wire.job(job)


@router.get("/{job_id}/events", response_model=None)
def events(
    here: Here,
    job_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    order: Literal["asc", "desc"] = "desc",
    stream: bool = False,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response | dict[str, Any]:
    """A page, newest first unless `order=asc`, or with `stream=true` all of them as they happen.

    `after` goes on from an event in the page's own direction, and in a stream towards newer ones.
    """
    job = _job(here, job_id)
    if stream:
        body = follow.stream(here.jobs, here.events, job.id, last_event_id or after)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)
    found = here.events.read(job.id, after, limit + 1, newest_first=order == "desc")
    return wire.page([wire.event(e) for e in found[:limit]], has_more=len(found) > limit)


def _job(here: Gateway, job_id: str) -> Job:
    return here.jobs.get(check_id(job_id, "job_id"))
