"""Budgets that are refused with the sum, and uncertain tokens that a user releases."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qcrd.method.prompts import build_teacher_prompt
from qcrd.records.job import Stage
from qcrd.runtime.jobs import commands as verbs
from qcrd.runtime.jobs.state_machine import with_changes
from qcrd.runtime.redis.generation_buffer import AccountUpdate
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.tokens.token_account import TokenAccount
from services.api.assembling.tokens.token_sums import Tokens
from services.api.dependencies import Gateway, get_service
from services.api.files import service as files
from services.api.jobs.create import parse_job_spec
from services.api.settings import TeacherConfig
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.gateway_client import Here, refused, sums

JOBS = "/v1/fine_tuning/jobs"
PRICES = {"prompt_price": 1.0, "completion_price": 2.0, "currency": "EUR"}
ROOM = {"rationales": {"n": 1, "max_new_tokens": 8}}


@pytest.fixture
def teacher() -> Iterator[ScriptedTeacher]:
    made = ScriptedTeacher(lambda prompt, seed: " x", tokenize=lambda text: 11)
    yield made
    made.close()


@pytest.fixture
def here(teacher: ScriptedTeacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    named = {"default": {"url": teacher.url, **PRICES}}
    monkeypatch.setenv("QCRD_TEACHERS", json.dumps(named))
    return Here(tmp_path / "models")


def test_a_budget_that_covers_no_request_is_refused_with_the_sum(
    here: Here, teacher: ScriptedTeacher
) -> None:
    """11 prompt tokens, as the teacher counts them, and 8 new ones."""
    file = here.file(sums(5))
    answer = here.create(file, ROOM, budget={"teacher_tokens": 18})
    said = refused(answer, 400, "budget_too_small", "budget.teacher_tokens")
    assert "11 prompt tokens + 1 × 8 new tokens = 19 tokens" in said
    assert here.jobs.list(None, 10) == []
    assert teacher.requests == []
    assert here.create(file, ROOM, budget={"teacher_tokens": 19}).status_code == 200
    # (11 + 2 · 8) / 10^6 = 0.000027
    said = refused(
        here.create(file, ROOM, budget={"cost": 0.000026}), 400, "budget_too_small", "budget.cost"
    )
    assert "2.7e-05 EUR" in said
    assert here.create(file, ROOM, budget={"cost": 0.000027}).status_code == 200


def test_without_a_tokenizer_the_sum_is_an_estimate(here: Here, teacher: ScriptedTeacher) -> None:
    teacher.tokenize = None
    file = here.file(sums(5))
    spec = parse_job_spec(_body(file))
    prompts = [
        build_teacher_prompt(spec.settings.task, row.question).text
        for row in files.iter_rows(here.store, file)
    ]
    most = -(-min(len(prompt.encode()) for prompt in prompts) // 3) + 8
    said = refused(
        here.create(file, ROOM, budget={"teacher_tokens": most - 1}),
        400,
        "budget_too_small",
        "budget.teacher_tokens",
    )
    assert f"{most - 8:,} prompt tokens (estimated) + 1 × 8 new tokens = {most:,} tokens" in said
    assert here.create(file, ROOM, budget={"teacher_tokens": most}).status_code == 200


def _body(file: str) -> dict[str, Any]:
    method = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}, **ROOM}}
    return {"model": "tiny", "training_file": file, "method": method}


async def _fetch_fingerprint(teacher: ScriptedTeacher) -> str:
    client = make_teacher_client("default", TeacherConfig(url=teacher.url))
    try:
        return (await client.fetch_info()).fingerprint
    finally:
        await client.close()


@pytest.mark.anyio
async def test_a_job_whose_answers_are_there_needs_no_budget(
    here: Here, teacher: ScriptedTeacher
) -> None:
    file = here.file(sums(5))
    spec = parse_job_spec(_body(file))
    cache = GenerationCache(
        here.store,
        get_service(here.app, Gateway).shared.generation_buffer,
        teacher=await _fetch_fingerprint(teacher),
        sampling=SamplingParams.from_spec(spec.settings.rationales).fingerprint,
    )
    for row in files.iter_rows(here.store, file):
        key = SampleRequest(build_teacher_prompt(spec.settings.task, row.question), 0).key
        found = {"text": " x", "finish_reason": "eos_token", "job_id": "earlier"}
        cache.add([Generation(key=key, index=0, prompt_tokens=11, completion_tokens=7, **found)])
    assert here.create(file, ROOM, budget={"teacher_tokens": 1}).status_code == 200


def paused(here: Here, spent: int, uncertain: int) -> str:
    """A job that was worked on once."""
    job_id = str(here.create(here.file(sums(5))).json()["id"])
    claimed = verbs.claim_job(here.jobs, job_id, "w", stage=Stage.ASSEMBLING, now=time.time())
    assert claimed is not None
    usage = claimed.usage.model_copy(
        update={"teacher_prompt_tokens": spent, "uncertain": uncertain, "uncertain_cost": 0.0}
    )
    verbs.update_job(here.jobs, job_id, claimed.lease.token, usage=usage)
    buffer = get_service(here.app, Gateway).shared.generation_buffer
    lease = claimed.lease.token
    account = {
        f"spent:{lease}": Tokens(spent).dump(),
        f"uncertain:{lease}": Tokens(0, uncertain - 10).dump(),
        f"open:{lease}:7": Tokens(4, 6).dump(),
    }
    buffer.update_account(AccountUpdate(job_id, account))
    here.client.post(f"{JOBS}/{job_id}/pause")
    return job_id


def test_a_job_is_resumed_with_its_uncertain_tokens_released(here: Here) -> None:
    job_id = paused(here, spent=100, uncertain=60)
    buffer = get_service(here.app, Gateway).shared.generation_buffer
    assert TokenAccount(buffer, here.jobs.get(job_id)).uncertain.total == 60
    resumed = here.client.post(f"{JOBS}/{job_id}/resume", json={"release_uncertain": True}).json()
    assert resumed["status"] == "queued"
    assert resumed["usage"]["teacher_prompt_tokens"] == 100
    assert (resumed["usage"]["uncertain"], resumed["usage"]["uncertain_cost"]) == (0, 0.0)
    after = TokenAccount(buffer, here.jobs.get(job_id))
    assert (after.spent.total, after.uncertain.total) == (100, 0)
    told = [event.message for event in here.events.read(job_id)]
    assert told[-1] == "resumed by key anonymous; 60 uncertain teacher tokens released"


def test_a_cancelled_job_tells_what_was_in_flight(here: Here) -> None:
    """Its worker may no longer write to it. 10 of the 60 tokens were written down for a request."""
    job_id = paused(here, spent=100, uncertain=60)
    usage = here.jobs.get(job_id).usage.model_copy(update={"uncertain": 50})
    here.jobs.update(job_id, lambda job: with_changes(job, usage=usage))
    cancelled = here.client.post(f"{JOBS}/{job_id}/cancel").json()
    assert (cancelled["status"], cancelled["usage"]["uncertain"]) == ("cancelled", 60)


def test_no_budget_is_taken_that_is_exceeded_already(here: Here) -> None:
    """The cost is (100 + 4) · 1 and (50 + 6) · 2 per million: 0.000216."""
    job_id = paused(here, spent=100, uncertain=60)

    def resume(**body: Any) -> Any:
        return here.client.post(f"{JOBS}/{job_id}/resume", json=body)

    small = {"teacher_tokens": 159}
    said = refused(resume(budget=small), 400, "budget_exceeded", "budget.teacher_tokens")
    assert "100 teacher tokens are spent and 60 more may be" in said
    refused(resume(budget={"cost": 0.0002}), 400, "budget_exceeded", "budget.cost")
    assert here.jobs.get(job_id).usage.uncertain == 60
    assert resume(budget=small, release_uncertain=True).json()["budget"] == {**small, "cost": None}


def test_a_deleted_job_leaves_no_account(here: Here) -> None:
    job_id = paused(here, spent=100, uncertain=60)
    here.client.post(f"{JOBS}/{job_id}/cancel")
    assert here.client.delete(f"{JOBS}/{job_id}").json()["deleted"] is True
    assert get_service(here.app, Gateway).shared.generation_buffer.read_account(job_id) == {}
