"""`/v1/models`: published students and links to their files."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from qcrd.records import rest
from services.api.dependencies import CallerDep, GatewayDep
from services.api.http import serializers
from services.api.models import service as models

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def list_models(
    gateway: GatewayDep,
    after: str | None = None,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
) -> rest.Page[rest.ModelObject]:
    """Newest first: all, or with `limit` a page of those that are older than model `after`."""
    records, has_more = models.list_models(gateway.store, after, limit)
    return serializers.build_page(
        [serializers.serialize_model(model) for model in records], has_more=has_more
    )


@router.get("/{model_id}")
def retrieve_model(gateway: GatewayDep, model_id: str) -> rest.ModelWithFiles:
    model = models.get_model(gateway.store, model_id)
    return rest.ModelWithFiles(
        **dict(serializers.serialize_model(model)),
        files=models.make_file_links(gateway.store, model),
    )


@router.delete("/{model_id}")
def delete_model(gateway: GatewayDep, caller: CallerDep, model_id: str) -> rest.DeleteResponse:
    models.delete_model(gateway.store, gateway.jobs, model_id, caller)
    return rest.DeleteResponse(id=model_id, object="model")
