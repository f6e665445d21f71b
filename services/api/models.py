"""Published students, as the trainer left them in the store, and the base models there are here."""

from __future__ import annotations

from pathlib import Path

from qcrd.errors import NotFound
from qcrd.records import PublishedModel
from qcrd.runtime import keys
from qcrd.runtime.store import Store, read_record

LINK_SECONDS = 3600


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


def bases(folder: Path) -> list[str] | None:
    """Names of the base models in `folder`, such as `t5-small` or `google/flan-t5-small`.

    None when there is no such folder here: then only the trainer can tell what there is.
    """
    if not folder.is_dir():
        return None
    found = [*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]
    return sorted(str(path.parent.relative_to(folder)) for path in found)
