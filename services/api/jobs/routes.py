"""`/v1/fine_tuning/jobs`: estimate, create, control and delete jobs, and read their events."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, StrictBool, field_validator
from starlette.responses import Response

from qcrd.records import rest
from qcrd.records.job import Job
from qcrd.records.specs.spec import Budget
from qcrd.runtime.keys import require_id, validate_id
from services.api.dependencies import CallerDep, Gateway, GatewayDep, inject
from services.api.events import sse
from services.api.events.broadcaster import EventBroadcaster
from services.api.http import serializers
from services.api.http.access.shares import GatewayShares, SharedStream
from services.api.http.query_checks import read_deep_object
from services.api.jobs import checkpoints, lifecycle
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.jobs.create import create_job
from services.api.jobs.estimating.estimate import JobEstimate, estimate_job
from services.api.jobs.predictions import PredictionFilter, list_predictions
from services.api.jobs.queue_position import describe_job, list_jobs
from services.api.jobs.search import find_jobs

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning jobs"])

PageLimit = Annotated[int, Query(ge=1, le=100)]
JobSpecBody = Annotated[dict[str, Any], Body()]
EventBroadcasterDep = Annotated[EventBroadcaster, inject(EventBroadcaster)]
SharesDep = Annotated[GatewayShares, inject(GatewayShares)]
ValidationCacheDep = Annotated[ValidationCache, inject(ValidationCache)]


EVENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "model": rest.Page[rest.FineTuningJobEvent],
        "description": "A page, or with `stream` each event as a server-sent one",
        "content": {"text/event-stream": {}},
    }
}


METADATA_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "required": False,
    "style": "deepObject",
    "explode": True,
    "schema": {"type": "object", "additionalProperties": {"type": "string"}},
    "description": "Pairs that a job must have: `metadata[team]=red`",
}


class ResumeRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    budget: Budget | None = None
    """Replaces the job's budget."""
    release_uncertain: StrictBool = False
    """Take the tokens of `usage.uncertain` for not spent, so that they may be."""

    @field_validator("budget", mode="before")
    @classmethod
    def refuse_unknown_keys(cls, value: Any) -> Any:
        """Records keep unknown fields that were stored; a client may send none."""
        return value if value is None else Budget.model_validate(value, extra="forbid")


@router.post("")
def create_fine_tuning_job(
    gateway: GatewayDep,
    caller: CallerDep,
    cache: ValidationCacheDep,
    shares: SharesDep,
    body: JobSpecBody,
) -> rest.FineTuningJob:
    with shares.validations.hold(caller):
        return _serialize_with_queue(gateway, create_job(gateway, body, caller, cache))


@router.post("/estimate")
def estimate_fine_tuning_job(
    gateway: GatewayDep,
    caller: CallerDep,
    cache: ValidationCacheDep,
    shares: SharesDep,
    body: JobSpecBody,
) -> JobEstimate:
    """Estimate what the same body would cost as a job. Nothing is generated or stored."""
    with shares.validations.hold(caller):
        return estimate_job(gateway, body, cache)


@router.get("", openapi_extra={"parameters": [METADATA_PARAMETER]})
def list_fine_tuning_jobs(
    gateway: GatewayDep, request: Request, after: str | None = None, limit: PageLimit = 20
) -> rest.Page[rest.FineTuningJob]:
    """Newest first; with `metadata[key]=value` those that have all these pairs. Long texts of a
    job's task are shown by the job itself only."""
    records = find_jobs(
        gateway.jobs,
        after and validate_id(after, "after"),
        limit + 1,
        metadata=read_deep_object(request, "metadata"),
    )
    jobs = list_jobs(records[:limit], gateway.jobs, gateway.shared.counters)
    return serializers.build_page(jobs, has_more=len(records) > limit)


@router.get("/{job_id}")
def retrieve_fine_tuning_job(gateway: GatewayDep, job_id: str) -> rest.FineTuningJob:
    return _serialize_with_queue(gateway, _get_job(gateway, job_id))


@router.delete("/{job_id}")
def delete_fine_tuning_job(
    gateway: GatewayDep, caller: CallerDep, job_id: str
) -> rest.DeleteResponse:
    """Delete a finished job. Its rationale set and its model stay."""
    lifecycle.delete_job(gateway, _get_job(gateway, job_id), caller)
    return rest.DeleteResponse(id=job_id, object="fine_tuning.job")


@router.post("/{job_id}/cancel")
def cancel_fine_tuning_job(
    gateway: GatewayDep, caller: CallerDep, job_id: str
) -> rest.FineTuningJob:
    return _serialize_with_queue(
        gateway, lifecycle.cancel_job(gateway, _get_job(gateway, job_id), caller)
    )


@router.post("/{job_id}/pause")
def pause_fine_tuning_job(
    gateway: GatewayDep, caller: CallerDep, job_id: str
) -> rest.FineTuningJob:
    return _serialize_with_queue(
        gateway, lifecycle.pause_job(gateway, _get_job(gateway, job_id), caller)
    )


@router.post("/{job_id}/resume")
def resume_fine_tuning_job(
    gateway: GatewayDep, caller: CallerDep, job_id: str, body: ResumeRequest | None = None
) -> rest.FineTuningJob:
    body = body or ResumeRequest()
    job = lifecycle.resume_job(
        gateway,
        _get_job(gateway, job_id),
        caller,
        body.budget,
        release_uncertain=body.release_uncertain,
    )
    return _serialize_with_queue(gateway, job)


@router.get("/{job_id}/checkpoints")
def list_fine_tuning_job_checkpoints(
    gateway: GatewayDep, job_id: str, after: str | None = None, limit: PageLimit = 10
) -> rest.Page[rest.FineTuningJobCheckpoint]:
    """Newest first, with links to their files; of a job that has succeeded, its student."""
    records = checkpoints.list_checkpoints(gateway.store, _get_job(gateway, job_id), after)
    return serializers.build_page(records[:limit], has_more=len(records) > limit)


@router.get("/{job_id}/predictions")
def list_fine_tuning_job_predictions(
    gateway: GatewayDep,
    job_id: str,
    method: str | None = None,
    right: bool | None = None,
    teacher_right: bool | None = None,
    label: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> rest.Page[rest.JobPrediction]:
    """What each row's student answered to each test question: with `right=false&teacher_right=true`
    those that only the teacher knows, with `label` those whose gold label it is."""
    wanted = PredictionFilter(method, right, teacher_right, label)
    found = list_predictions(gateway.store, _get_job(gateway, job_id), wanted, after, limit + 1)
    return serializers.build_page(found[:limit], has_more=len(found) > limit)


@router.get("/{job_id}/events", response_model=None, responses=EVENT_RESPONSES)
def list_fine_tuning_job_events(
    gateway: GatewayDep,
    caller: CallerDep,
    broadcaster: EventBroadcasterDep,
    shares: SharesDep,
    job_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    order: Literal["asc", "desc"] = "desc",
    stream: bool = False,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response | rest.Page[rest.FineTuningJobEvent]:
    """A page, newest first unless `order=asc`, or with `stream=true` all of them as they happen.

    `after` goes on from an event in the page's own direction, and in a stream towards newer ones;
    there `Last-Event-ID` takes its place. Either is refused with 400 when it is not an event's id.
    """
    job = _get_job(gateway, job_id)
    if stream:
        cursor = sse.resolve_cursor(after, last_event_id)
        frames = sse.stream_events(broadcaster, job.id, cursor, concluded=job.concluded)
        body = SharedStream(frames, shares.streams, caller)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(body, media_type="text/event-stream", headers=headers)
    records = gateway.events.read(job.id, after, limit + 1, newest_first=order == "desc")
    return serializers.build_page(
        [serializers.serialize_event(e) for e in records[:limit]], has_more=len(records) > limit
    )


def _get_job(gateway: Gateway, job_id: str) -> Job:
    return gateway.jobs.get(require_id(job_id, "job_id"))


def _serialize_with_queue(gateway: Gateway, job: Job) -> rest.FineTuningJob:
    return describe_job(job, gateway.jobs, gateway.shared.counters)
