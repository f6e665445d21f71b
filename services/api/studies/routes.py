"""`/v1/studies`: methods under several seeds on one rationale set, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse, Response

from qcrd.records import rest
from qcrd.records.job import Job
from qcrd.records.study import Study
from services.api.dependencies import CallerDep, Gateway, GatewayDep, inject
from services.api.http import serializers
from services.api.http.access.shares import GatewayShares
from services.api.jobs.checks.validation_cache import ValidationCache
from services.api.studies import service as studies
from services.api.studies.markdown import render_markdown
from services.api.studies.svg import render_svg
from services.api.studies.table import build_table

router = APIRouter(prefix="/v1/studies", tags=["studies"])


@router.post("")
def create_study(
    gateway: GatewayDep,
    caller: CallerDep,
    cache: Annotated[ValidationCache, inject(ValidationCache)],
    shares: Annotated[GatewayShares, inject(GatewayShares)],
    body: Annotated[dict[str, Any], Body()],
) -> rest.StudyObject:
    with shares.validations.hold(caller):
        study = studies.create_study(gateway, body, caller, cache)
        return _serialize_study_with_jobs(gateway, study.id)


@router.get("")
def list_studies(
    gateway: GatewayDep, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> rest.Page[rest.StudySummary]:
    records = studies.list_studies(gateway.store, after)
    return serializers.build_page(
        [
            _serialize_summary(study, studies.get_study_jobs(gateway, study))
            for study in records[:limit]
        ],
        has_more=len(records) > limit,
    )


@router.get("/{study_id}")
def retrieve_study(gateway: GatewayDep, study_id: str, with_table: bool = True) -> rest.StudyObject:
    """`with_table=false` leaves out the table, for which every prediction of every job is read."""
    return _serialize_study_with_jobs(gateway, study_id, with_table=with_table)


@router.get("/{study_id}/table")
def retrieve_study_table(
    gateway: GatewayDep, study_id: str, format: Literal["json", "markdown", "svg"] = "json"
) -> Response:
    study = studies.get_study(gateway.store, study_id)
    study_table = build_table(study, studies.get_study_jobs(gateway, study), gateway.store)
    match format:
        case "json":
            return JSONResponse(study_table.model_dump(mode="json"))
        case "markdown":
            return Response(render_markdown(study_table), media_type="text/markdown; charset=utf-8")
        case "svg":
            return Response(render_svg(study_table), media_type="image/svg+xml")


@router.post("/{study_id}/cancel")
def cancel_study(gateway: GatewayDep, caller: CallerDep, study_id: str) -> rest.StudyObject:
    """Jobs that have succeeded stay in the table."""
    studies.cancel_study(gateway, studies.get_study(gateway.store, study_id), caller)
    return _serialize_study_with_jobs(gateway, study_id, with_table=False)


@router.post("/{study_id}/resume")
def resume_study(gateway: GatewayDep, caller: CallerDep, study_id: str) -> rest.StudyObject:
    """Create jobs that are missing because the gateway died; existing ones are left alone."""
    studies.resume_study(gateway, studies.get_study(gateway.store, study_id), caller)
    return _serialize_study_with_jobs(gateway, study_id, with_table=False)


def _serialize_study_with_jobs(
    gateway: Gateway, study_id: str, *, with_table: bool = True
) -> rest.StudyObject:
    study = studies.get_study(gateway.store, study_id)
    jobs = studies.get_study_jobs(gateway, study)
    return rest.StudyObject(
        **dict(_serialize_summary(study, jobs)),
        jobs=list(studies.iter_study_jobs(study, jobs)),
        table=build_table(study, jobs, gateway.store) if with_table else None,
    )


def _serialize_summary(study: Study, jobs: Mapping[str, Job | None]) -> rest.StudySummary:
    leader = jobs[study.leader]
    return serializers.serialize_study(
        study, studies.derive_status(jobs), leader.rationale_set if leader else None
    )
