"""`/v1/discriminators`: the quality judges of jobs, each under the id of its job."""

from __future__ import annotations

from typing import Annotated, cast

from fastapi import APIRouter, Depends, Query, Request

from services.api.discriminators.service import (
    DiscriminatorObject,
    DiscriminatorPage,
    DiscriminatorService,
)

router = APIRouter(prefix="/v1/discriminators", tags=["discriminators"])


def _get_discriminators(request: Request) -> DiscriminatorService:
    return cast(DiscriminatorService, request.app.state.discriminators)


DiscriminatorsDep = Annotated[DiscriminatorService, Depends(_get_discriminators)]


@router.get("")
def list_discriminators(
    discriminators: DiscriminatorsDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> DiscriminatorPage:
    return discriminators.list_discriminators(after, limit)


@router.get("/{judge_id}")
def retrieve_discriminator(discriminators: DiscriminatorsDep, judge_id: str) -> DiscriminatorObject:
    """Spec, health and histograms of each version; `source` says who told the current one."""
    return discriminators.get_discriminator(judge_id)
