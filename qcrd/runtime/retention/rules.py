"""What may go from the object store: one function for each kind of thing, and all of them."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterator

from qcrd.errors import UnreadableRecord
from qcrd.records.job import PublishedModel, StoredFile
from qcrd.runtime import archive_keys, keys
from qcrd.runtime.jobs.store import JobRecords
from qcrd.runtime.retention.known_jobs import KnownJobs
from qcrd.runtime.retention.removal import DAY_SECONDS, Removal, describe_age
from qcrd.runtime.settings import RetentionSettings
from qcrd.runtime.storage.inventory import InventoriedStore, StoredObject
from qcrd.runtime.storage.store import find_record

log = logging.getLogger(__name__)

DELETION_MARK_SECONDS = 7 * DAY_SECONDS
"""Longer than a process that is about to write of a deleted job can be held up."""

_JUDGE_VERSION = re.compile(r"[^/]+/[^/]+/[0-9]{6}/[^/]+\Z")
"""Of a judge's objects, those of a version: what else lies there is not taken for the newest."""


def iter_removals(
    store: InventoriedStore, jobs: JobRecords, settings: RetentionSettings, now: float
) -> Iterator[Removal]:
    """What may go now, each found when the one before has been taken. `jobs` are all jobs, with
    those of the archive; `now` in seconds since the epoch."""
    known = KnownJobs(jobs, store, now)
    for removals in (
        _iter_checkpoints(known, settings),
        _iter_events(known, settings),
        _iter_judges(store, known, settings, now),
        _iter_unpublished_models(store, known, settings, now),
        _iter_uploads(store, settings, now),
        _iter_deletion_marks(store, now),
        _iter_generations(store, known, settings, now),
    ):
        try:
            yield from removals
        except UnreadableRecord as error:
            # What it needs, only the release that wrote it can tell: the rest of its kind stays.
            log.warning("nothing more of this kind is removed: %s", error)


def _iter_checkpoints(known: KnownJobs, settings: RetentionSettings) -> Iterator[Removal]:
    for job_id, objects in known.objects.items():
        prefix = keys.checkpoint_prefix(job_id)
        states = [each for each in objects if each.key.startswith(prefix)]
        if states and (over := known.find_over(job_id, settings.checkpoints_days * DAY_SECONDS)):
            # In reverse `states/` comes before `blobs/`: no manifest is left without its blobs.
            yield Removal.make("checkpoints", job_id, over, reversed(states))


def _iter_events(known: KnownJobs, settings: RetentionSettings) -> Iterator[Removal]:
    if settings.events_days is None:
        return
    seconds = settings.events_days * DAY_SECONDS
    for job_id, objects in known.objects.items():
        prefixes = (archive_keys.event_pages_prefix(job_id), keys.job_events_key(job_id))
        events = [each for each in objects if each.key.startswith(prefixes)]
        # Records are read of those alone whose objects are old enough.
        is_old = bool(events) and _is_older(events, seconds, known.now)
        if is_old and (over := known.find_over(job_id, seconds)):
            yield Removal.make("events", job_id, over, events)


def _iter_judges(
    store: InventoriedStore, known: KnownJobs, settings: RetentionSettings, now: float
) -> Iterator[Removal]:
    seconds = settings.judges_days * DAY_SECONDS
    judges: dict[str, list[StoredObject]] = defaultdict(list)
    for each in store.list_objects(keys.JUDGES):
        judges[each.key.split("/")[1]].append(each)
    for judge_id, objects in judges.items():
        described_first = sorted(objects, key=lambda each: not each.key.endswith("/judge.json"))
        if judge_id.startswith(keys.ANSWER_JUDGE_PREFIX):
            continue
        old = _list_old_versions(described_first)
        if old and (over := known.find_over(judge_id, seconds)):
            yield Removal.make("judge versions", judge_id, f"{over}; the newest stays", old)
        elif _is_older(objects, seconds, now) and known.is_deleted(judge_id):
            yield Removal.make("judge", judge_id, "its job was deleted", described_first)
    of_answers = {
        judge_id: objects
        for judge_id, objects in judges.items()
        if judge_id.startswith(keys.ANSWER_JUDGE_PREFIX) and _is_older(objects, seconds, now)
    }
    if of_answers:
        # The living first: of one that ends meanwhile the model is among the published ones.
        living = known.list_living(keys.make_answer_judge_id)
        for judge_id in of_answers.keys() - living - _list_judges_of_models(store):
            objects = of_answers[judge_id]
            yield Removal.make("judge", judge_id, "no published model has it", objects)


def _list_judges_of_models(store: InventoriedStore) -> set[str]:
    """Ids of the judges of published students' answers. `UnreadableRecord`."""
    manifests = [key for key in store.list(keys.MODELS) if key.endswith("/model.json")]
    models = [find_record(store, key, PublishedModel) for key in manifests]
    return {keys.make_answer_judge_id(model.job_id) for model in models if model is not None}


def _list_old_versions(objects: list[StoredObject]) -> list[StoredObject]:
    """The objects of all versions but the newest that is described; none where none is."""
    versions = [each for each in objects if _JUDGE_VERSION.match(each.key)]
    numbers = [each.key.split("/")[2] for each in versions if each.key.endswith("/judge.json")]
    return [each for each in versions if numbers and each.key.split("/")[2] < max(numbers)]


def _iter_unpublished_models(
    store: InventoriedStore, known: KnownJobs, settings: RetentionSettings, now: float
) -> Iterator[Removal]:
    """Files of students whose description was never written, or was deleted."""
    seconds = settings.checkpoints_days * DAY_SECONDS
    folders: dict[str, list[StoredObject]] = defaultdict(list)
    for each in store.list_objects(keys.MODELS):
        folders[each.key.split("/")[1]].append(each)
    unpublished = {
        model_id: objects
        for model_id, objects in folders.items()
        if all(each.key != keys.model_manifest_key(model_id) for each in objects)
        and _is_older(objects, seconds, now)
    }
    if unpublished:
        for model_id in unpublished.keys() - known.list_living(keys.make_model_id):
            if store.list(keys.model_manifest_key(model_id), limit=1):
                continue  # published since
            objects = unpublished[model_id]
            yield Removal.make("model files", model_id, "no model.json says they are one", objects)


def _iter_uploads(
    store: InventoriedStore, settings: RetentionSettings, now: float
) -> Iterator[Removal]:
    seconds = settings.uploads_days * DAY_SECONDS
    for upload in store.list_open_uploads():
        if now - upload.started > seconds:
            reason = f"its upload broke off {describe_age(now - upload.started)} ago"
            yield Removal("upload parts", upload.key, reason, (), 0, (upload,))
    old = [each for each in store.list_objects(keys.UPLOADS) if now - each.modified > seconds]
    described = _list_described(store) if old else set()
    for each in old:
        if each.key not in described:
            reason = f"no file describes it, after {describe_age(now - each.modified)}"
            yield Removal.make("upload", each.key, reason, [each])


def _iter_deletion_marks(store: InventoriedStore, now: float) -> Iterator[Removal]:
    """Of deletions that every process which had the job then has seen, or is itself gone."""
    for each in store.list_objects(archive_keys.DELETED):
        if (age := now - each.modified) > DELETION_MARK_SECONDS:
            name = each.key.removeprefix(archive_keys.DELETED)
            reason = f"its job was deleted {describe_age(age)} ago"
            yield Removal.make("deletion mark", name, reason, [each])


def _list_described(store: InventoriedStore) -> set[str]:
    """Keys of the bytes of all files. `UnreadableRecord`."""
    files = [key for key in store.list(keys.FILES) if key.endswith("/meta.json")]
    stored = [find_record(store, key, StoredFile) for key in files]
    return {file.blob for file in stored if file is not None and file.blob is not None}


def _iter_generations(
    store: InventoriedStore, known: KnownJobs, settings: RetentionSettings, now: float
) -> Iterator[Removal]:
    uses: dict[str, list[StoredObject]] = defaultdict(list)
    for each in store.list_objects(archive_keys.GENERATION_USES):
        uses[each.key.removeprefix(archive_keys.GENERATION_USES).rpartition("/")[0]].append(each)
    for folder, marks in uses.items():
        newest = max(marks, key=lambda each: each.modified)
        over = [each for each in marks if known.find_ended(_get_user(each)) and each != newest]
        if over:
            yield Removal.make("marks of use", folder, "their jobs have ended", over)
    if settings.generations_days is None:
        return
    shards: dict[str, list[StoredObject]] = defaultdict(list)
    for each in store.list_objects(archive_keys.GENERATIONS):
        shards[each.key.removeprefix(archive_keys.GENERATIONS).rpartition("/")[0]].append(each)
    for folder, objects in shards.items():
        marks = uses.get(folder, [])
        objects = [*objects, *store.list_objects(f"{archive_keys.GENERATION_INDEXES}{folder}/")]
        is_used = any(_is_living(known, _get_user(each)) for each in marks)
        all_objects = [*objects, *marks]
        if not is_used and _is_older(all_objects, settings.generations_days * DAY_SECONDS, now):
            since = describe_age(now - max(each.modified for each in all_objects))
            yield Removal.make("generations", folder, f"no job used them for {since}", all_objects)


def _get_user(mark: StoredObject) -> str:
    return mark.key.rpartition("/")[2]


def _is_living(known: KnownJobs, job_id: str) -> bool:
    return known.find_ended(job_id) is None and not known.is_deleted(job_id)


def _is_older(objects: list[StoredObject], seconds: float, now: float) -> bool:
    return all(now - each.modified > seconds for each in objects)
