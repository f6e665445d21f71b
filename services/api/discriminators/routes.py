"""`/v1/discriminators`: the quality judges of jobs, each under the id of its job."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from qcrd.records.rest import Page
from services.api.dependencies import inject
from services.api.discriminators.service import (
    DiscriminatorObject,
    DiscriminatorService,
    DiscriminatorSummary,
)

router = APIRouter(prefix="/v1/discriminators", tags=["discriminators"])


DiscriminatorsDep = Annotated[DiscriminatorService, inject(DiscriminatorService)]


@router.get("")
def list_discriminators(
    discriminators: DiscriminatorsDep,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Page[DiscriminatorSummary]:
    return discriminators.list_discriminators(after, limit)


@router.get("/{judge_id}")
def retrieve_discriminator(discriminators: DiscriminatorsDep, judge_id: str) -> DiscriminatorObject:
    """Spec, health and histograms of each version; `source`: where the current one was read."""
    return discriminators.get_discriminator(judge_id)
