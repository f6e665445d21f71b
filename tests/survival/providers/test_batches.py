"""Jobs whose teacher is asked by batch: killed between a batch and its record, and cancelled."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from qcrd.records.job import JobStatus
from qcrd.runtime import keys
from tests.fakes.batches import FakeBatches
from tests.secrets import found_in
from tests.survival.providers.hosted import knowing
from tests.survival.stack.runs import Data, Run, asked_for, followed
from tests.survival.stack.system import System, until
from tests.things import answered

KEY = "sk-of-the-batches-0123456789"
PRICES = {"prompt_price": 1.0, "completion_price": 2.0}


@pytest.fixture(scope="module")
def provider(system: System) -> Iterator[FakeBatches]:
    """Known to the gateway and its worker as teacher `batches`, until the tests end."""
    made = FakeBatches(answered, key=KEY)
    known = {"url": made.url, "api": "openai", "model": "m", "api_key_env": "BATCH_KEY"}
    teachers = {"batches": {**known, **PRICES, "batch": True}}
    with knowing(system, teachers, {"BATCH_KEY": KEY}):
        yield made
    made.close()


def create(system: System, data: Data, rng: random.Random) -> Run:
    room, given = asked_for(data)
    method: dict[str, Any] = given["method"]["qcrd"]
    method["teacher"] = "batches"
    response = httpx2.post(f"{system.url()}/v1/fine_tuning/jobs", json=given, timeout=60)
    answer = response.raise_for_status().json()
    return Run(
        system, answer["id"], room, followed(system, answer["id"], rng), answer["created_at"]
    )


def test_a_worker_killed_between_a_batch_and_its_record_has_it_paid_once(
    provider: FakeBatches, system: System, data: Data, rng: random.Random
) -> None:
    """The provider has made the batch and says nothing until the worker is gone."""
    provider.held = threading.Event()
    provider.ran.clear()
    before, paid = len(provider.batches), (provider.prompt_tokens, provider.completion_tokens)
    run = create(system, data, rng)
    until(lambda: len(provider.batches) > before, system)
    worker = until(lambda: system.holder(run.id), system)
    records = system.store.list(f"{keys.batch_prefix(run.id)}shard-")
    (record,) = [key for key in records if key.endswith(".json")]
    with system.store.open(record) as body:
        assert b'"batch_id": null' in body.read()
    worker.kill()
    held, provider.held = provider.held, None
    held.set()
    job = run.ended()
    assert job.status is JobStatus.SUCCEEDED, f"{job.failure}\n{system.tails()}"
    (batch,) = provider.batches[before:]
    assert all(provider.ran[line["custom_id"]] == 1 for line in batch.lines)
    prompt, completion = job.usage.teacher_prompt_tokens, job.usage.teacher_completion_tokens
    assert prompt == provider.prompt_tokens - paid[0]
    assert completion == provider.completion_tokens - paid[1]
    assert job.usage.uncertain == 0
    assert job.usage.cost == pytest.approx(0.5 * (prompt + 2 * completion) / 1e6)
    said = [event.message for event in system.all_events(run.id)]
    assert any(f"an earlier attempt made batch {batch.id}" in each for each in said)
    until(lambda: not system.store.list(keys.batch_prefix(run.id)), system)
    log = b"".join(part.log.read_bytes() for part in system.parts.values() if part.starts)
    assert found_in(log, [KEY]) == []
    assert found_in(job.model_dump_json().encode(), [KEY]) == []


def test_a_cancelled_job_s_batch_is_cancelled_by_a_worker(
    provider: FakeBatches, system: System, data: Data, rng: random.Random
) -> None:
    provider.stands = True
    before = len(provider.batches)
    run = create(system, data, rng)
    until(lambda: len(provider.batches) > before and system.job(run.id).waiting, system)
    assert not system.job(run.id).lease.owner, "no worker is held"
    url = f"{system.url()}/v1/fine_tuning/jobs/{run.id}/cancel"
    httpx2.post(url, timeout=30).raise_for_status()
    until(lambda: provider.batches[-1].status == "cancelled", system)
    until(lambda: not system.store.list(keys.batch_prefix(run.id)), system)
    assert run.ended().status is JobStatus.CANCELLED
    provider.stands = False
