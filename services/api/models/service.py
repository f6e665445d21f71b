"""Published students, as the trainer left them in the store."""

from __future__ import annotations

from itertools import islice

from qcrd.errors import Conflict, Invalid, NotFound
from qcrd.records.api_keys import ApiKey
from qcrd.records.job import PublishedModel
from qcrd.records.rest import FileLink
from qcrd.records.specs.spec import JobSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.state_machine import TERMINAL
from qcrd.runtime.jobs.store import JobStore, check_active_readable
from qcrd.runtime.storage.published_models import iter_published_models, remove_published_model
from qcrd.runtime.storage.store import Store, read_record
from services.api.http.access.ownership import check_owner, get_job_owner

LINK_EXPIRY_SECONDS = 3600


def list_models(
    store: Store, after: str | None = None, limit: int | None = None
) -> tuple[list[PublishedModel], bool]:
    """At most `limit` models, newest first, that are older than model `after`, and whether there
    are more; without a limit all, as OpenAI's clients expect. `Invalid` for an unknown `after`.

    A model is there when its description is, which is written last.
    """
    try:
        begin = None if after is None else get_model(store, after)
    except NotFound as error:
        raise Invalid(f"`after`: there is no model {after!r}", param="after") from error
    if limit is None:
        return list(iter_published_models(store, begin)), False
    models = iter_published_models(store, begin, page_size=limit + 1)
    page = list(islice(models, limit + 1))
    return page[:limit], len(page) > limit


def get_model(store: Store, model_id: str) -> PublishedModel:
    key = keys.model_manifest_key(keys.require_id(model_id, "model", "model_not_found"))
    try:
        return read_record(store, key, PublishedModel)
    except NotFound as error:
        raise NotFound(
            f"there is no model {model_id}", param="model", code="model_not_found"
        ) from error


def check_published(store: Store, model_id: str) -> None:
    """`NotFound` unless there is such a model."""
    get_model(store, model_id)


def delete_model(store: Store, jobs: JobStore, model_id: str, caller: ApiKey) -> None:
    """`NotFound`; `Conflict` while a job that is not over begins with it, or may.

    Without its description, which goes first, the model is no longer there, whatever is left.
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
    check_active_readable(jobs, f"model {model_id}")
    store.delete(keys.model_manifest_key(model_id))
    for key in store.list(keys.model_prefix(model_id)):
        store.delete(key)
    remove_published_model(store, model)


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
