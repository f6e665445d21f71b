"""Published students in the store, and the base models that jobs may name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from qcrd.errors import Conflict, Invalid, NotFound, Transient
from qcrd.records.api_keys import ApiKey
from qcrd.records.job import PublishedModel
from qcrd.records.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.base_models import MODEL_NAME, list_local_models
from qcrd.runtime.storage.store import Store, find_record, read_record
from services.api.http.ownership import check_owner, get_job_owner
from services.api.http.schemas import FileLink

LINK_EXPIRY_SECONDS = 3600
HUB_TIMEOUT_SECONDS = 5.0


def list_models(store: Store) -> list[PublishedModel]:
    """A model exists when its description does, which is written last."""
    manifest_keys = [key for key in store.list(keys.MODELS) if key.endswith("/model.json")]
    models = [
        model
        for key in manifest_keys
        if (model := find_record(store, key, PublishedModel)) is not None
    ]
    return sorted(models, key=lambda model: (model.created_at, model.id), reverse=True)


def get_model(store: Store, model_id: str) -> PublishedModel:
    key = keys.model_manifest_key(keys.validate_id(model_id, "model"))
    try:
        return read_record(store, key, PublishedModel)
    except NotFound as error:
        raise NotFound(
            f"there is no model {model_id}", param="model", code="model_not_found"
        ) from error


def check_published(store: Store, model_id: str) -> None:
    """The model. `NotFound` also for a malformed id: clients ask for models of other servers."""
    if not keys.ID_PATTERN.fullmatch(model_id):
        raise NotFound(
            f"`model`: there is no model {model_id[:80]!r}; GET /v1/models lists them",
            param="model",
            code="model_not_found",
        )
    get_model(store, model_id)


def delete_model(store: Store, jobs: JobStore, model_id: str, caller: ApiKey) -> None:
    """`NotFound`; `Conflict` while an unfinished job uses it as its base.

    Its description is deleted first, so a partly deleted model does not exist any more.
    """
    model = get_model(store, model_id)
    check_owner(f"model {model_id}", get_job_owner(jobs, model.job_id), caller)
    for job in jobs.iter_active():
        fields = [
            field for field, name in list_referenced_models(job.spec).items() if name == model_id
        ]
        if fields and job.status not in TERMINAL:
            raise Conflict(
                f"job {job.id} is not over and its `{fields[0]}` is {model_id}: cancel it, or wait "
                "for it",
                param="model",
                code="model_in_use",
            )
    store.delete(keys.model_manifest_key(model_id))
    for key in store.list(keys.model_prefix(model_id)):
        store.delete(key)


def list_referenced_models(spec: JobSpec) -> dict[str, str | None]:
    """The models that `spec` names, by the path of the field that does."""
    return {
        "model": spec.model,
        f"method.{spec.method}.negatives.checkpoint": spec.settings.negatives.checkpoint,
        f"method.{spec.method}.discriminator.encoder": spec.settings.discriminator.encoder,
    }


def make_file_links(store: Store, model: PublishedModel) -> list[FileLink]:
    """Each file's name and a link that reads it for an hour."""
    prefix = keys.model_prefix(model.id)
    return [
        FileLink(name=name, url=store.presign_url(f"{prefix}{name}", seconds=LINK_EXPIRY_SECONDS))
        for name in model.files
    ]


def check_base_model(
    name: str, settings: ModelSettings, store: Store, param: str
) -> Mapping[str, Any]:
    """`Invalid` when base model `name` is not in the models folder, published, or on the hub.

    Returns its config.json as far as it can be read from here, {} where it cannot. A gateway that
    has no models folder and cannot reach the hub leaves the question to the trainer.
    """
    if not MODEL_NAME.fullmatch(name) or ".." in name:
        raise Invalid(
            f"`{param}`: {name[:80]!r} is not the name of a model, such as `t5-small`", param=param
        )
    if name in list_local_models(settings):
        return _read_local_config(settings, name, param)
    if keys.ID_PATTERN.fullmatch(name) and _is_published(store, name):
        return {}
    try:
        return _fetch_hub_config(name)
    except NotFound:
        hub_problem = "the hub has none of this name"
    except Transient:
        if not settings.models_dir.is_dir():
            return {}
        hub_problem = "the hub cannot be reached"
    local = ", ".join(list_local_models(settings)) or "none"
    raise Invalid(
        f"`{param}`: there is no model {name!r}. In the models folder: {local}; {hub_problem}. "
        f"Name one of these, or put the model's files into {settings.models_dir / name}",
        param=param,
        code="model_not_found",
    )


def _is_published(store: Store, model_id: str) -> bool:
    try:
        get_model(store, model_id)
    except NotFound:
        return False
    return True


def _read_local_config(settings: ModelSettings, name: str, param: str) -> Mapping[str, Any]:
    try:
        config = json.loads((settings.models_dir / name / "config.json").read_text())
    except ValueError as error:
        raise Invalid(
            f"`{param}`: config.json of {name!r} is not JSON; fetch the model again", param=param
        ) from error
    return config if isinstance(config, dict) else {}


def _fetch_hub_config(name: str) -> Mapping[str, Any]:
    """The model's config from the hub. `Transient` when the hub is unreachable."""
    try:
        return HfApi().model_info(name, timeout=HUB_TIMEOUT_SECONDS).config or {}
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            raise NotFound(f"the hub has no model {name}") from error
        raise Transient("the hub does not respond") from error
    except (OSError, httpx2.HTTPError) as error:
        raise Transient("the hub does not respond") from error
