"""What a gateway makes of objects in the store that nobody can read, or that only lie there."""

from __future__ import annotations

import pytest
import zstandard

from qcrd.questions import labelling
from qcrd.records.job import JobStatus, StoredFile
from qcrd.records.judge import CreateJudgeRequest, JudgeVersion
from qcrd.records.rationales import RationaleManifest
from qcrd.records.specs.training_spec import JudgeSpec
from qcrd.runtime import archive_keys, keys, redis_keys
from qcrd.runtime.jobs.archive.event_archive import EventArchive
from qcrd.runtime.jobs.archive.job_archive import JobArchive
from qcrd.runtime.jobs.state_machine import with_changes
from qcrd.runtime.storage.published_models import index_published_models
from qcrd.runtime.storage.store import read_object, read_record, write_record
from services.api.files.service import delete_expired_files
from tests.contract.api.damaged_redis import JOBS, DamagedGateway
from tests.unit.api.gateway_client import published, refused, sums


def archive(gateway: DamagedGateway, job_id: str) -> None:
    """Move the job to the store, with its events."""
    job = with_changes(gateway.jobs.get(job_id), status=JobStatus.SUCCEEDED, concluded=True)
    JobArchive(gateway.store).save(job)
    EventArchive(gateway.store).add_new(job_id, gateway.events)
    for key in gateway.redis.scan_iter(match="qcrd:*"):
        if key != redis_keys.UNREADABLE_JOBS:
            gateway.redis.delete(key)


DAMAGED_FILES = {
    "infinite": ('"created_at": ', '"created_at": 1e999, "x": '),
    "no number": ('"created_at": ', '"created_at": NaN, "x": '),
    "extra": ('"created_at": ', '"later": [{"deep": Infinity}], "created_at": '),
    "of another": ('"id": "file-', '"id": "../file-'),
}


@pytest.mark.parametrize("damage", DAMAGED_FILES)
def test_a_file_with_a_damaged_description_harms_no_other(
    gateway: DamagedGateway, damage: str
) -> None:
    other, key = gateway.file(sums(5)), keys.file_meta_key(gateway.training)
    damaged = read_object(gateway.store, key).decode().replace(*DAMAGED_FILES[damage])
    gateway.store.put(key, damaged.encode())
    assert ids(gateway, "/v1/files") == [other]
    for call in (gateway.client.get, gateway.client.delete):
        refused(call(f"/v1/files/{gateway.training}"), 501, "unreadable_record")
    assert key in gateway.get("/ready")["unreadable"]


def test_what_a_job_may_need_that_cannot_be_read_is_not_deleted(gateway: DamagedGateway) -> None:
    used, spare = gateway.training, gateway.file(sums(5))
    model = published(gateway.store)
    job, over = gateway.new_job(), gateway.new_job(2)
    assert gateway.client.post(f"{JOBS}/{over}/cancel").status_code == 200
    for name in (used, spare):
        key = keys.file_meta_key(name)
        expired = read_record(gateway.store, key, StoredFile).model_copy(update={"expires_at": 1.0})
        write_record(gateway.store, key, expired)
        gateway.store.put(keys.file_expiry_key(name), b"")
    records = {each: str(gateway.redis.get(redis_keys.job_key(each))) for each in (job, over)}
    for each in records:
        gateway.redis.set(redis_keys.job_key(each), '{"schema_version": "2.0"}')
    for path in (f"/v1/files/{used}", f"/v1/files/{spare}", f"/v1/models/{model.id}"):
        message = refused(gateway.client.delete(path), 409, "unreadable_jobs")
        assert f"cannot read job {job}, which" in message, "and not the one that is over"
    assert delete_expired_files(gateway.store, gateway.jobs, 2.0) == []
    gateway.redis.set(redis_keys.job_key(job), records[job])
    assert delete_expired_files(gateway.store, gateway.jobs, 2.0) == [spare]
    assert gateway.client.delete(f"/v1/models/{model.id}").status_code == 200


def add_set(gateway: DamagedGateway, number: int) -> str:
    set_id = f"set-{number:024d}"
    counts = labelling.count_outcomes([], reused=0)
    manifest = RationaleManifest(id=set_id, shards=(), counts=counts, created_at=float(number))
    write_record(gateway.store, keys.rationale_manifest_key(set_id), manifest)
    return set_id


def ids(gateway: DamagedGateway, path: str) -> list[str]:
    return [one["id"] for one in gateway.get(path)["data"]]


def test_strays_among_ended_jobs_and_events_are_left_out_and_named(
    gateway: DamagedGateway,
) -> None:
    job = gateway.new_job()
    archive(gateway, job)
    folder = archive_keys.event_pages_prefix(job)
    strays = [*(f"ended/{name}" for name in ("..", "0junk", "a-b-c", "zzz")), f"{folder}zzz_z"]
    for key in strays:
        gateway.store.put(key, b"")
    assert gateway.listed() == [job]
    assert gateway.get(f"{JOBS}?limit=1")["data"][0]["id"] == job
    assert gateway.get(f"{JOBS}/{job}/events")["data"]
    gateway.events.append(job, "later")
    assert EventArchive(gateway.store).add_new(job, gateway.events) is not None
    assert set(strays) <= set(gateway.get("/ready")["unreadable"])


def test_strays_and_damage_among_other_objects_are_left_out_and_named(
    gateway: DamagedGateway,
) -> None:
    sets = [add_set(gateway, number) for number in range(4)]
    assert ids(gateway, "/v1/rationale_sets") == sets[::-1]
    damaged = [keys.rationale_manifest_key(name) for name in (sets[1], "set-new", "..")]
    for key in damaged:
        gateway.store.put(key, b"{{")
    judge = f"ftjob-{1:024d}"
    creation = CreateJudgeRequest(base="tiny", spec=JudgeSpec(), seed=3)
    write_record(gateway.store, keys.judge_spec_key(judge), creation)
    write_record(gateway.store, keys.judge_description_key(judge, 3), JudgeVersion(version=3))
    strays = [f"{keys.file_prefix(gateway.training)}at-notanumber", f"{archive_keys.PUBLISHED}x"]
    for key in (*strays, f"{keys.judge_prefix(judge)}newest/judge.json"):
        gateway.store.put(key, b"")
    assert ids(gateway, "/v1/rationale_sets") == [sets[3], sets[2], sets[0]]
    page = gateway.get("/v1/rationale_sets?limit=2")
    assert ([one["id"] for one in page["data"]], page["has_more"]) == (sets[:1:-1], True)
    assert ids(gateway, "/v1/files") == [gateway.training]
    assert ids(gateway, "/v1/models") == []
    index_published_models(gateway.store)
    [shown] = gateway.get("/v1/discriminators")["data"]
    assert (shown["id"], shown["version"]) == (judge, 3)
    assert {*strays, *damaged} <= set(gateway.get("/ready")["unreadable"])


def test_what_was_mended_or_deleted_is_no_longer_named(gateway: DamagedGateway) -> None:
    job = gateway.new_job()
    archive(gateway, job)
    [page] = gateway.store.list(archive_keys.event_pages_prefix(job))
    written = read_object(gateway.store, page)
    other = gateway.file(sums(5))
    mended, deleted = (keys.file_meta_key(name) for name in (gateway.training, other))
    described = read_object(gateway.store, mended)
    for key in (mended, deleted):
        gateway.store.put(key, b"{{")
    for key in (stray := "ended/junk", beside := "ended/junk2"):
        gateway.store.put(key, b"")
    gateway.store.put(page, zstandard.compress(b"{{\n"))
    line = f"{page}, line 1"
    for path in ("/v1/files", JOBS, f"{JOBS}/{job}/events"):
        gateway.get(path)
    for _ in range(2):
        assert set(gateway.get("/ready")["unreadable"]) == {mended, deleted, stray, beside, line}
    gateway.store.put(mended, described)
    gateway.store.delete(deleted)
    gateway.store.delete(stray)
    gateway.store.put(page, written)
    assert set(gateway.get("/ready")["unreadable"]) == {beside, line}
    assert gateway.get(f"{JOBS}/{job}/events")["data"]
    gateway.store.delete(beside)
    assert "unreadable" not in gateway.get("/ready")
