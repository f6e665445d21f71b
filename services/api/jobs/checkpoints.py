"""A job's checkpoints: the states that training goes on from, and the student it ended with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qcrd.errors import NotFound
from qcrd.records.checkpoint import CheckpointManifest
from qcrd.records.job import Job
from qcrd.records.rest import CheckpointMetrics, FileLink, FineTuningJobCheckpoint
from qcrd.runtime import keys
from qcrd.runtime.storage.store import Store, find_readable_record
from services.api.http.paging import skip_through
from services.api.models import service as models


def list_checkpoints(
    store: Store, job: Job, after: str | None = None
) -> Sequence[FineTuningJobCheckpoint]:
    """All checkpoints, or those older than `after`. `Invalid` when there is none of that id."""
    checkpoints = [*_iter_published(store, job), *_iter_training_states(store, job)]
    return skip_through(checkpoints, after, "checkpoint", lambda checkpoint: checkpoint.id)


def _iter_published(store: Store, job: Job) -> Iterator[FineTuningJobCheckpoint]:
    if job.model is None:
        return
    try:
        model = models.get_model(store, job.model)
    except NotFound:
        return  # deleted since
    method = job.spec.method.value
    validation = job.report.validation.get(method) if job.report else None
    test = job.report.test.get(method) if job.report else None
    steps = (test and test.steps) or (validation and validation.steps) or 0
    yield FineTuningJobCheckpoint(
        id=f"ftckpt-{keys.digest(job.id, model.id)}",
        created_at=int(model.created_at),
        fine_tuning_job_id=job.id,
        fine_tuned_model_checkpoint=model.id,
        step_number=steps,
        metrics=CheckpointMetrics(step=steps, valid_accuracy=validation and validation.accuracy),
        method=method,
        files=models.make_file_links(store, model),
    )


def _iter_training_states(store: Store, job: Job) -> Iterator[FineTuningJobCheckpoint]:
    """Numbers of the checkpoint; a state without a best score has not been validated yet."""
    prefix = keys.checkpoint_prefix(job.id)
    states = [key for key in store.list(prefix) if "/states/" in key and key.endswith(".json")]
    # Those that training has not replaced since the listing.
    manifests = [
        (key, loaded)
        for key in states
        if (loaded := find_readable_record(store, key, CheckpointManifest))
    ]
    for key, manifest in sorted(manifests, key=lambda pair: pair[1].saved_at, reverse=True):
        folder, step = key.split("/states/")[0], int(manifest.numbers["step"])
        best = manifest.numbers.get("best")
        yield FineTuningJobCheckpoint(
            id=f"ftckpt-{keys.digest(job.id, key)}",
            created_at=int(manifest.saved_at),
            fine_tuning_job_id=job.id,
            fine_tuned_model_checkpoint=f"{job.id}:{step}",
            step_number=step,
            metrics=CheckpointMetrics(step=step, valid_accuracy=best[1] if best else None),
            method=folder.removeprefix(prefix),
            files=_make_file_links(store, key, folder, manifest),
        )


def _make_file_links(
    store: Store, key: str, folder: str, manifest: CheckpointManifest
) -> list[FileLink]:
    blobs = {
        f"{name.replace('/', '-')}.safetensors": f"{folder}/blobs/{sha}"
        for name, sha in manifest.blobs.items()
        if name != "prepared"
    }
    return [
        FileLink(name=name, url=store.presign_url(blob, seconds=models.LINK_EXPIRY_SECONDS))
        for name, blob in {"state.json": key, **blobs}.items()
    ]
