"""`/v1/discriminators`: the quality judges of jobs, each under the id of its job."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request

from services.api.discriminators.service import Discriminators, JudgeBody, JudgePage

router = APIRouter(prefix="/v1/discriminators", tags=["discriminators"])


def _judges(request: Request) -> Discriminators:
    return cast(Discriminators, request.app.state.discriminators)


Judges = Annotated[Discriminators, Depends(_judges)]


@router.get("")
def listed(
    judges: Judges, after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> JudgePage:
    return judges.page(after, limit)


@router.get("/{judge_id}")
def described(judges: Judges, judge_id: str) -> JudgeBody:
    """Spec, health and histograms of each version; `source` says who told the current one."""
    return judges.describe(judge_id)
