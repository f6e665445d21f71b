"""Published students, as the trainer left them in the store, and the bases that jobs may name."""

from __future__ import annotations

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from qcrd.errors import Invalid, NotFound
from qcrd.records import PublishedModel
from qcrd.runtime import keys
from qcrd.runtime.bases import NAME, local_bases
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.store import Store, read_record

LINK_SECONDS = 3600
HUB_SECONDS = 5.0


def newest_first(store: Store) -> list[PublishedModel]:
    """A model is there when its description is, which is written last."""
    found = [
        read_record(store, key, PublishedModel)
        for key in store.list(keys.MODELS)
        if key.endswith("/model.json")
    ]
    return sorted(found, key=lambda model: (model.created_at, model.id), reverse=True)


def find(store: Store, model_id: str) -> PublishedModel:
    key = keys.model_manifest_key(keys.check_id(model_id, "model"))
    try:
        return read_record(store, key, PublishedModel)
    except NotFound as error:
        raise NotFound(
            f"there is no model {model_id}", param="model", code="model_not_found"
        ) from error


def links(store: Store, model: PublishedModel) -> list[dict[str, str]]:
    """Each file's name and a link that reads it for an hour."""
    prefix = keys.model_prefix(model.id)
    return [
        {"name": name, "url": store.link(f"{prefix}{name}", seconds=LINK_SECONDS)}
        for name in model.files
    ]


def check_base(name: str, settings: ModelSettings, store: Store, param: str) -> None:
    """`Invalid` when base model `name` is not in the models folder, published, or on the hub.

    A gateway that has no models folder and cannot reach the hub leaves the question to the trainer.
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise Invalid(
            f"`{param}`: {name[:80]!r} is not the name of a model, such as `t5-small`", param=param
        )
    if name in local_bases(settings) or (keys.ID.fullmatch(name) and _published(store, name)):
        return
    there = _on_hub(name)
    if there or (there is None and not settings.models_dir.is_dir()):
        return
    local = ", ".join(local_bases(settings)) or "none"
    hub = "the hub cannot be reached" if there is None else "the hub has none of this name"
    raise Invalid(
        f"`{param}`: there is no model {name!r}. In the models folder: {local}; {hub}. "
        f"Name one of these, or put the model's files into {settings.models_dir / name}",
        param=param,
        code="model_not_found",
    )


def _published(store: Store, model_id: str) -> bool:
    try:
        find(store, model_id)
    except NotFound:
        return False
    return True


def _on_hub(name: str) -> bool | None:
    """None when the hub does not answer."""
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except HfHubHTTPError as error:
        return False if error.response.status_code in (401, 403, 404) else None
    except (OSError, httpx2.HTTPError):
        return None
    return True
