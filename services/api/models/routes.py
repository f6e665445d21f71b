"""`/v1/models`: published students and links to their files."""

from __future__ import annotations

from fastapi import APIRouter

from services.api.dependencies import CallerDep, GatewayDep
from services.api.http import schemas, serializers
from services.api.models import service as models

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def listed(here: GatewayDep) -> schemas.Page[schemas.ModelObject]:
    return serializers.build_page(
        [serializers.serialize_model(model) for model in models.newest_first(here.store)]
    )


@router.get("/{model_id}")
def described(here: GatewayDep, model_id: str) -> schemas.ModelWithFiles:
    model = models.find(here.store, model_id)
    return schemas.ModelWithFiles(
        **dict(serializers.serialize_model(model)), files=models.links(here.store, model)
    )


@router.delete("/{model_id}")
def deleted(here: GatewayDep, caller: CallerDep, model_id: str) -> schemas.DeleteResponse:
    models.delete(here.store, here.jobs, model_id, caller)
    return schemas.DeleteResponse(id=model_id, object="model")
