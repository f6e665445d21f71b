"""`/v1/studies`: methods under several seeds on one rationale set, and their table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse, Response

from qcrd.records.job import Job
from qcrd.records.study import Study
from services.api.dependencies import CallerDep, Gateway, GatewayDep
from services.api.http import schemas, serializers
from services.api.studies import service as studies
from services.api.studies.markdown import markdown
from services.api.studies.svg import svg
from services.api.studies.table import table

router = APIRouter(prefix="/v1/studies", tags=["studies"])


@router.post("")
def created(
    here: GatewayDep, caller: CallerDep, body: Annotated[dict[str, Any], Body()]
) -> schemas.StudyObject:
    return _shown(here, studies.create(here, body, caller).id)


@router.get("")
def listed(
    here: GatewayDep, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> schemas.Page[schemas.StudySummary]:
    found = studies.newest_first(here.store, after)
    return serializers.build_page(
        [_summary(study, studies.jobs_of(here, study)) for study in found[:limit]],
        has_more=len(found) > limit,
    )


@router.get("/{study_id}")
def described(here: GatewayDep, study_id: str, with_table: bool = True) -> schemas.StudyObject:
    """`with_table=false` spares whoever looks often the reading of every prediction."""
    return _shown(here, study_id, with_table=with_table)


@router.get("/{study_id}/table")
def tabled(
    here: GatewayDep, study_id: str, format: Literal["json", "markdown", "svg"] = "json"
) -> Response:
    study = studies.find(here.store, study_id)
    made = table(study, studies.jobs_of(here, study), here.store)
    match format:
        case "json":
            return JSONResponse(made.model_dump(mode="json"))
        case "markdown":
            return Response(markdown(made), media_type="text/markdown; charset=utf-8")
        case "svg":
            return Response(svg(made), media_type="image/svg+xml")


@router.post("/{study_id}/cancel")
def cancelled(here: GatewayDep, caller: CallerDep, study_id: str) -> schemas.StudyObject:
    """Jobs that have succeeded stay in the table."""
    studies.cancel(here, studies.find(here.store, study_id), caller)
    return _shown(here, study_id, with_table=False)


@router.post("/{study_id}/resume")
def resumed(here: GatewayDep, caller: CallerDep, study_id: str) -> schemas.StudyObject:
    """Creates jobs that are missing because the gateway died; those that are there it leaves."""
    studies.resume(here, studies.find(here.store, study_id), caller)
    return _shown(here, study_id, with_table=False)


def _shown(here: Gateway, study_id: str, *, with_table: bool = True) -> schemas.StudyObject:
    study = studies.find(here.store, study_id)
    found = studies.jobs_of(here, study)
    return schemas.StudyObject(
        **dict(_summary(study, found)),
        jobs=list(studies.shown(study, found)),
        table=table(study, found, here.store) if with_table else None,
    )


def _summary(study: Study, found: Mapping[str, Job | None]) -> schemas.StudySummary:
    leader = found[study.leader]
    return serializers.serialize_study(
        study, studies.status(found), leader.rationale_set if leader else None
    )
