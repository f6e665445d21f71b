"""The list of published students, newest first, without reading any of those before a page.

Each student has an empty object whose key sorts it. Students of earlier releases get theirs when
the list is first read, and from the sweeper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qcrd.records.job import PublishedModel
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.storage.store import (
    Store,
    find_readable_record,
    find_readable_records,
    note_stray_object,
)

PAGE_SIZE = 100


def add_published_model(store: Store, model: PublishedModel) -> None:
    """List the model. It is called before the description is written, with which it exists."""
    store.put(archive_keys.published_model_key(model.id, model.created_at), b"")


def remove_published_model(store: Store, model: PublishedModel) -> None:
    """Idempotent."""
    store.delete(archive_keys.published_model_key(model.id, model.created_at))


def iter_published_models(
    store: Store, after: PublishedModel | None = None, *, page_size: int = PAGE_SIZE
) -> Iterator[PublishedModel]:
    """The models that are older than `after`, newest first; a page is read at a time."""
    if not store.list(archive_keys.PUBLISHED_COMPLETE, limit=1):
        index_published_models(store)
        store.put(archive_keys.PUBLISHED_COMPLETE, b"")
    cursor = "" if after is None else archive_keys.published_model_key(after.id, after.created_at)
    while page := store.list(archive_keys.PUBLISHED, after=cursor, limit=page_size):
        cursor = page[-1]
        yield from _read_listed(store, page)


def _read_listed(store: Store, page: Sequence[str]) -> Iterator[PublishedModel]:
    """Those that exist, each at the place of its last publication."""
    places = {key: archive_keys.parse_published_model_key(key) for key in page}
    for key in (key for key, place in places.items() if place is None):
        note_stray_object(store, key)
    ids = {key: place[1] for key, place in places.items() if place is not None}
    manifests = [keys.model_manifest_key(model_id) for model_id in ids.values()]
    models = find_readable_records(store, manifests, PublishedModel)
    for key, model in zip(ids, models, strict=True):
        if model is not None and key == archive_keys.published_model_key(
            model.id, model.created_at
        ):
            yield model


def index_published_models(store: Store) -> None:
    """List the models that are not yet: an earlier release published them."""
    listed = {
        place[1]
        for key in store.list(archive_keys.PUBLISHED)
        if (place := archive_keys.parse_published_model_key(key))
    }
    for key in store.list(keys.MODELS):
        model_id = key.split("/")[1]
        if key.endswith("/model.json") and model_id not in listed:
            model = find_readable_record(store, key, PublishedModel)
            if model is not None:
                add_published_model(store, model)
