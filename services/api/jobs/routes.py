"""`/v1/fine_tuning/jobs`: from an estimate to the deletion, and each job's events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from qcrd.records.job import Job
from qcrd.records.spec import Budget
from qcrd.runtime.keys import validate_id
from services.api.dependencies import CallerDep, Gateway, GatewayDep
from services.api.events import sse
from services.api.http import schemas, serializers
from services.api.jobs import checkpoints, lifecycle
from services.api.jobs.create import create
from services.api.jobs.estimate import Estimate, estimate
from services.api.jobs.queue_position import shown, shown_all

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["jobs"])

Limit = Annotated[int, Query(ge=1, le=100)]
Spec = Annotated[dict[str, Any], Body()]


EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": schemas.Page[schemas.FineTuningJobEvent],
        "description": "A page, or with `stream` each event as a server-sent one",
        "content": {"text/event-stream": {}},
    }
}


class Resume(BaseModel):
    model_config = ConfigDict(extra="forbid")

    budget: Budget | None = None
    """In place of the one that the job has."""


@router.post("")
def created(here: GatewayDep, caller: CallerDep, body: Spec) -> schemas.FineTuningJob:
    return _shown(here, create(here, body, caller))


@router.post("/estimate")
def estimated(here: GatewayDep, body: Spec) -> Estimate:
    """What the same body would cost as a job. Nothing is generated and nothing is kept."""
    return estimate(here, body)


@router.get("")
def listed(
    here: GatewayDep, after: str | None = None, limit: Limit = 20
) -> schemas.Page[schemas.FineTuningJob]:
    found = here.jobs.list(after and validate_id(after, "after"), limit + 1)
    jobs = shown_all(found[:limit], here.jobs, here.shared.counters)
    return serializers.build_page(jobs, has_more=len(found) > limit)


@router.get("/{job_id}")
def described(here: GatewayDep, job_id: str) -> schemas.FineTuningJob:
    return _shown(here, _job(here, job_id))


@router.delete("/{job_id}")
def deleted(here: GatewayDep, caller: CallerDep, job_id: str) -> schemas.DeleteResponse:
    """Of a job that is over. Its rationale set and its model stay."""
    lifecycle.delete(here, _job(here, job_id), caller)
    return schemas.DeleteResponse(id=job_id, object="fine_tuning.job")


@router.post("/{job_id}/cancel")
def cancelled(here: GatewayDep, caller: CallerDep, job_id: str) -> schemas.FineTuningJob:
    return _shown(here, lifecycle.cancel(here, _job(here, job_id), caller))


@router.post("/{job_id}/pause")
def paused(here: GatewayDep, caller: CallerDep, job_id: str) -> schemas.FineTuningJob:
    return _shown(here, lifecycle.pause(here, _job(here, job_id), caller))


@router.post("/{job_id}/resume")
def resumed(
    here: GatewayDep, caller: CallerDep, job_id: str, body: Resume | None = None
) -> schemas.FineTuningJob:
    budget = body.budget if body else None
    return _shown(here, lifecycle.resume(here, _job(here, job_id), caller, budget))


@router.get("/{job_id}/checkpoints")
def saved(
    here: GatewayDep, job_id: str, after: str | None = None, limit: Limit = 10
) -> schemas.Page[schemas.FineTuningJobCheckpoint]:
    """Newest first, with links to their files; of a job that has succeeded, its student."""
    found = checkpoints.newest_first(here.store, _job(here, job_id), after)
    return serializers.build_page(found[:limit], has_more=len(found) > limit)


@router.get("/{job_id}/events", response_model=None, responses=EVENTS)
def events(
    here: GatewayDep,
    hub: sse.EventBroadcasterDep,
    job_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    order: Literal["asc", "desc"] = "desc",
    stream: bool = False,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response | schemas.Page[schemas.FineTuningJobEvent]:
    """A page, newest first unless `order=asc`, or with `stream=true` all of them as they happen.

    `after` goes on from an event in the page's own direction, and in a stream towards newer ones;
    there `Last-Event-ID` takes its place. Either is refused with 400 when it is not an event's id.
    """
    job = _job(here, job_id)
    if stream:
        begin = sse.resolve_cursor(after, last_event_id)
        body = sse.stream_events(hub, job.id, begin, concluded=job.concluded)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)
    found = here.events.read(job.id, after, limit + 1, newest_first=order == "desc")
    return serializers.build_page(
        [serializers.serialize_event(e) for e in found[:limit]], has_more=len(found) > limit
    )


def _job(here: Gateway, job_id: str) -> Job:
    return here.jobs.get(validate_id(job_id, "job_id"))


def _shown(here: Gateway, job: Job) -> schemas.FineTuningJob:
    return shown(job, here.jobs, here.shared.counters)
