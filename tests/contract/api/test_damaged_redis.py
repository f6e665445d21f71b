"""What a gateway makes of values in Redis that nobody can read: each harms its own job at most."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from qcrd.records.job import JobStatus, Stage
from qcrd.runtime import redis_keys
from qcrd.runtime.backup.snapshot import read_backup, write_backup
from qcrd.runtime.jobs.commands import claim_job
from qcrd.runtime.jobs.dispatch import claim_next_job
from qcrd.runtime.jobs.finalize import finalize_pending
from qcrd.runtime.jobs.reaper import alarm_unreadable
from qcrd.runtime.jobs.stage_context import NextStage, StageContext, WorkerDeps
from qcrd.runtime.jobs.stage_runner import run_stage
from qcrd.runtime.jobs.state_machine import with_changes
from qcrd.runtime.redis.counters import RedisCounters
from qcrd.runtime.redis.event_log import BEFORE_FIRST_EVENT, UNREADABLE_EVENT
from qcrd.runtime.retention.sweeper import make_sweeper
from qcrd.runtime.settings import RetentionSettings
from qcrd.runtime.storage.inventory import InventoriedStore
from services.api.events.broadcaster import EventBroadcaster
from services.api.events.sse import encode_event, stream_events
from services.api.http.idempotency_store import RedisIdempotencyStore, StoredResponse
from tests.contract.api.damaged_redis import JOBS, DamagedGateway
from tests.unit.api.gateway_client import make_spec, refused

DAMAGED_EVENTS: dict[str, dict[str | bytes, str | bytes]] = {
    "no JSON": {"event": "{{nope"},
    "no object": {"event": "[1]"},
    "no field": {"other": "1"},
    "no UTF-8": {"event": b'{"message": "\xff\xfe"}'},
    "no UTF-8 in a name": {b"\xff": "1"},
    "half a character": {"event": '{"message": "m", "data": {"x": "\\ud800"}}'},
}
LATER_EVENTS = {"a list as status": {"status": ["over"]}, "no number": {"loss": float("inf")}}
"""Data of events that can be read."""


async def next_message(frames: AsyncIterator[bytes]) -> str:
    async for frame in frames:
        if b"data: " in frame:
            return str(json.loads(frame.split(b"data: ")[1])["message"])
    return "over"


@pytest.mark.parametrize("damage", [*DAMAGED_EVENTS, *LATER_EVENTS])
def test_a_damaged_event_stops_no_stream_and_no_list(gateway: DamagedGateway, damage: str) -> None:
    harmed, other = gateway.new_job(1), gateway.new_job(2)
    later = {"message": "of a later release", "data": LATER_EVENTS.get(damage)}
    entry = DAMAGED_EVENTS.get(damage) or {"event": json.dumps(later)}
    here = EventBroadcaster(gateway.jobs, gateway.events, encode_event)

    async def follow() -> list[str]:
        first, second = (stream_events(here, job, BEFORE_FIRST_EVENT) for job in (harmed, other))
        async with asyncio.timeout(20):
            for frames in (first, second):
                await next_message(frames)  # of the creation: both are followed from here on
            gateway.redis.xadd(redis_keys.events_key(harmed), dict(entry))
            got = []
            for text in ("one", "two", "three"):  # the first may come from the history
                gateway.events.append(other, text)
                got.append(await next_message(second))
            gateway.events.append(harmed, "goes on")
            return [*got, await next_message(first), await next_message(first)]

    told = UNREADABLE_EVENT if damage in DAMAGED_EVENTS else "of a later release"
    try:
        assert asyncio.run(follow()) == ["one", "two", "three", told, "goes on"]
    finally:
        here.close()
    for job, messages in ((harmed, {told, "goes on"}), (other, {"one", "two", "three"})):
        page = gateway.get(f"{JOBS}/{job}/events")
        assert messages <= {event["message"] for event in page["data"]}


@pytest.mark.parametrize("damage", ["no stream", "an id of the far future"])
def test_a_damaged_log_stops_no_stream_of_others(gateway: DamagedGateway, damage: str) -> None:
    harmed, other = gateway.new_job(1), gateway.new_job(2)
    key = redis_keys.events_key(harmed)
    if damage == "no stream":
        gateway.redis.set(key, "x")
        answer = gateway.client.get(f"{JOBS}/{harmed}/events")
        refused(answer, 501, "unreadable_record")
    else:
        gateway.redis.xadd(key, {"event": '{"message": "m"}'}, id="9999999999999999999-0")
        assert gateway.get(f"{JOBS}/{harmed}/events")["data"][0]["message"] == "m"
    found = gateway.events.watch(dict.fromkeys((harmed, other), BEFORE_FIRST_EVENT), 1000)
    assert found[other]
    gateway.add_damaged_job(gateway.jobs.get(harmed), harmed, b"{{")
    gateway.add_damaged_job(gateway.jobs.get(other), other, b"{{")
    assert gateway.listed() == []
    assert set(alarm_unreadable(gateway.jobs, gateway.events)) == {harmed, other}
    assert gateway.events.read(other, newest_first=True)[0].level == "error"


@pytest.mark.parametrize("note", ["{{", "[]", '["a", "b"]', b"\xff"])
def test_a_damaged_note_of_what_was_said_once_keeps_nothing_from_being_said(
    gateway: DamagedGateway, note: str | bytes
) -> None:
    gateway.redis.hset(redis_keys.emitted_once_key("ftjob-x"), "once-alarm", note)  # type: ignore[arg-type]
    said = [gateway.events.append("ftjob-x", "an alarm", once="alarm").id for _ in range(2)]
    assert [event.id for event in gateway.events.read("ftjob-x")] == [said[0]] == [said[1]]


BAD_IDS = ["ftjob-" + "a" * 24, "ftjob-\udcff"]


@pytest.mark.parametrize("bad", BAD_IDS, ids=["record", "record and id"])
def test_a_job_that_is_no_text_is_set_aside(
    gateway: DamagedGateway, bad: str, tmp_path: Path
) -> None:
    good = gateway.new_job(1)
    gateway.add_damaged_job(gateway.jobs.get(good), bad, b"\xff\xfe")
    assert gateway.listed() == [good]
    assert "qcrd_redis_up 1.0" in gateway.get("/metrics")
    ready = gateway.get("/ready")
    assert ready["status"] == "ok"
    [(named, reason)] = ready["unreadable"].items()
    assert named == bad.replace("\udcff", "\\udcff")
    assert "cannot be read as Job by this release" in reason
    assert list(alarm_unreadable(gateway.jobs, gateway.events)) == [bad]
    over = gateway.new_job(2)
    for answer in (
        gateway.client.post(f"{JOBS}/{over}/cancel"),
        gateway.client.delete(f"{JOBS}/{over}"),
    ):
        assert answer.status_code == 200, answer.text
    deps = WorkerDeps(gateway.jobs, gateway.events, gateway.store, gateway.queue)
    claimed = claim_next_job(deps, good, Stage.ASSEMBLING)
    assert claimed is not None
    assert claimed.id == good
    write_backup(gateway.redis, tmp_path / "backup")
    entries = {entry.key: entry.value for entry in read_backup(tmp_path / "backup")}
    assert entries[redis_keys.job_key(bad)] == "\udcff\udcfe"
    gateway.redis.set("copy", entries[redis_keys.job_key(bad)])
    assert gateway.redis.strlen("copy") == 2, "the same bytes"


DAMAGED_RECORDS = {
    "another job's": ('"id":"ftjob-', '"id":"../ftjob-'),
    "infinite": ('"created_at":', '"created_at":1e999,"x":'),
    "infinite far inside": ('"seconds":{', '"seconds":{"training":1e999'),
}


@pytest.mark.parametrize("damage", DAMAGED_RECORDS)
def test_a_record_of_another_job_or_with_no_finite_number_is_set_aside(
    gateway: DamagedGateway, damage: str
) -> None:
    bad, good = gateway.new_job(1), gateway.new_job(2)
    record = str(gateway.redis.get(redis_keys.job_key(bad)))
    damaged = record.replace(*DAMAGED_RECORDS[damage])
    assert damaged != record
    gateway.add_damaged_job(gateway.jobs.get(good), bad, damaged.encode())
    assert gateway.listed() == [good]
    assert list(gateway.get("/ready")["unreadable"]) == [bad]
    refused(gateway.client.get(f"{JOBS}/{bad}"), 501, "unreadable_record")
    deps = WorkerDeps(gateway.jobs, gateway.events, gateway.store, gateway.queue)
    claimed = claim_next_job(deps, bad, Stage.ASSEMBLING)
    assert claimed is not None
    assert claimed.id == good
    assert claim_next_job(deps, bad, Stage.ASSEMBLING) is None


def test_a_job_that_a_later_major_release_takes_over_ends_its_stage_without_an_error(
    gateway: DamagedGateway,
) -> None:
    deps = WorkerDeps(gateway.jobs, gateway.events, gateway.store, gateway.queue, ttl=60.0)
    job, newer = gateway.new_job(), '{"schema_version": "2.0"}'
    key = redis_keys.job_key(job)

    def work(stage: StageContext) -> NextStage:
        gateway.redis.set(key, newer)
        return NextStage(Stage.TRAINING)

    run_stage(deps, job, Stage.ASSEMBLING, work)
    assert gateway.redis.get(key) == newer
    assert claim_job(gateway.jobs, job, "w", stage=Stage.ASSEMBLING, now=1.0) is None
    assert not gateway.queue.drain()[1:], "that of its creation alone"


def test_a_damaged_log_keeps_no_other_job_from_being_finalized(gateway: DamagedGateway) -> None:
    jobs = [gateway.new_job(seed) for seed in (1, 2, 3)]
    for job in jobs:
        change = {"status": JobStatus.FAILED, "finished_at": 1.0}
        gateway.jobs.update(job, lambda job, change=change: with_changes(job, **change))
    gateway.redis.set(redis_keys.events_key(jobs[1]), "no stream")
    deps = WorkerDeps(gateway.jobs, gateway.events, gateway.store, gateway.queue)
    assert set(finalize_pending(deps, gateway.jobs.now())) == {jobs[0], jobs[2]}
    sweeper = make_sweeper(
        gateway.redis, cast(InventoriedStore, gateway.store), RetentionSettings()
    )
    assert sweeper.evictor.archive_long_logs(longest=0, kept=1) == []
    moved = {removal.name for removal in sweeper.sweep_redis(9e9)}
    assert moved == {jobs[0], jobs[2]}


SUM = '["stage_seconds_sum",[["stage","training"]]]'
DAMAGED_COUNTERS: dict[str | bytes, str | bytes] = {
    "garbage": "1",
    "{{": "1",
    b"\xff": "1",
    '["a"]': "1",
    '["budget_pauses", []]': "1",
    '["webhooks",[["outcome","\\ud800"]]]': "1",
    '["attempts_lost",[]]': "many",
    '["deliveries_refused",[["task","train"]]]': "inf",
    '["stage_seconds",[["le","1.0"],["stage","training"]]]': "1e30",
    SUM: "-1",
}
OTHER_COUNTERS = {
    '["stage_seconds_sum",[["stage","auditing"]]]': "1",
    '["stage_seconds_sum",[]]': "1",
    '["stage_seconds",[]]': "1",
}
"""As a later release may count."""


def test_damaged_counters_count_as_absent(
    gateway: DamagedGateway, caplog: pytest.LogCaptureFixture
) -> None:
    counters = RedisCounters(gateway.redis)
    counters.increment("teacher_tokens", 5.0, kind="prompt")
    mapping: dict[Any, Any] = {**DAMAGED_COUNTERS, **OTHER_COUNTERS}
    gateway.redis.hset(redis_keys.COUNTERS, mapping=mapping)
    job = gateway.new_job()
    assert gateway.listed() == [job]
    for _ in range(2):
        shown = gateway.get("/metrics")
        assert 'qcrd_teacher_tokens_total{kind="prompt"} 5.0' in shown
        assert "qcrd_attempts_lost_total 0.0" in shown
        assert 'qcrd_stage_seconds_sum{stage="auditing"} 1.0' in shown
    told = [r.getMessage() for r in caplog.records if r.name == "qcrd.runtime.redis.counters"]
    assert len(told) == len(DAMAGED_COUNTERS), "each once"
    counters.increment("attempts_lost")
    gateway.redis.set(redis_keys.COUNTERS, "no hash")
    assert counters.read() == []
    counters.increment("attempts_lost")
    assert gateway.listed() == [job]


@pytest.mark.parametrize("kept", ["{{", "{}", b"\xff", '{"schema_version": "2.0"}', "a list"])
def test_a_request_whose_earlier_answer_cannot_be_read_is_not_carried_out(
    gateway: DamagedGateway, kept: str | bytes
) -> None:
    headers = {"Idempotency-Key": "k"}
    spec = make_spec(gateway.training)
    first = gateway.client.post(JOBS, json=spec, headers=headers)
    assert first.status_code == 200
    [key] = gateway.redis.scan_iter(match=redis_keys.idempotency_key("*"))
    if kept == "a list":
        gateway.redis.delete(key)
        gateway.redis.rpush(key, "x")
    else:
        gateway.redis.set(key, kept)
    again = gateway.client.post(JOBS, json=spec, headers=headers)
    message = refused(again, 501, "unreadable_record", "Idempotency-Key")
    assert "if not, send this one under another key" in message
    assert gateway.listed() == [first.json()["id"]]


def test_an_entry_that_is_damaged_while_its_request_runs_stays_and_harms_it_not(
    gateway: DamagedGateway,
) -> None:
    answers = RedisIdempotencyStore(gateway.redis)
    entry = answers.begin("n", "f", "one", 0.0)
    key = redis_keys.idempotency_key("n")
    for damage in ("{{", "[1]"):
        gateway.redis.set(key, damage)
        answers.renew("n", "one", 1.0)
        answers.finish("n", entry, StoredResponse(status=200, content_type="", body=""))
        answers.release("n", "one", forget=True)
        assert gateway.redis.get(key) == damage
