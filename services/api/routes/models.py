"""`/v1/models`: published students and links to their files."""

from __future__ import annotations

from fastapi import APIRouter

from services.api import models, views, wire
from services.api.dependencies import Caller, Here

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
def listed(here: Here) -> wire.Page[wire.ModelObject]:
    return views.page([views.model(model) for model in models.newest_first(here.store)])


@router.get("/{model_id}")
def described(here: Here, model_id: str) -> wire.ModelWithFiles:
    model = models.find(here.store, model_id)
    return wire.ModelWithFiles(**dict(views.model(model)), files=models.links(here.store, model))


@router.delete("/{model_id}")
def deleted(here: Here, caller: Caller, model_id: str) -> wire.Deleted:
    models.delete(here.store, here.jobs, model_id, caller)
    return wire.Deleted(id=model_id, object="model")
