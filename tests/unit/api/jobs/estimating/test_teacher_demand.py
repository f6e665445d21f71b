"""What an estimate expects to be sent, what it cannot rule out, and what it finds paid for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qcrd.records.teachers.prompt import PromptForm
from qcrd.runtime.keys import digest
from services.api.assembling.generation_cache import Generation, GenerationCache
from services.api.assembling.sampling_plan import SampleRequest, SamplingParams
from services.api.dependencies import Gateway, get_service
from services.api.jobs.create import parse_job_spec
from services.api.jobs.job_prompts import iter_prompts
from services.api.settings import TeacherConfig, TeacherSettings
from tests.fakes.providers import BY_NAME, FakeProvider
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.assembling.assembling_bench import adds
from tests.unit.api.gateway_client import Here, sums


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    made = FakeProvider(BY_NAME["vllm"], adds)
    yield made
    made.close()


@pytest.fixture
def teacher() -> Iterator[ScriptedTeacher]:
    made = ScriptedTeacher(adds)
    yield made
    made.close()


def estimate(here: Here, **rationales: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The body, and what the estimate says of its teacher."""
    settings = {"task": {"answer": "number"}, "rationales": {"n": 6, **rationales}}
    body = {
        "model": "tiny",
        "training_file": here.file(sums(4)),
        "method": {"type": "qcrd", "qcrd": settings},
    }
    reply = here.client.post("/v1/fine_tuning/jobs/estimate", json=body)
    assert reply.status_code == 200, reply.text
    return body, reply.json()["teacher"]


def make_here(folder: Path, config: TeacherConfig) -> Here:
    return Here(folder / "models", teachers=TeacherSettings(teachers={"default": config}))


@pytest.mark.parametrize(("concurrency", "parts"), [(32, 1), (2, 3)])
def test_an_unknown_server_may_want_every_prompt_once_a_sample(
    concurrency: int, parts: int, provider: FakeProvider, tmp_path: Path
) -> None:
    """It may ignore `n`. A request has no more samples than may be in flight."""
    config = TeacherConfig(url=provider.url, api="openai", model="m", concurrency=concurrency)
    _, found = estimate(make_here(tmp_path, config))
    once = found["prompt_tokens"] / parts
    assert found["prompt_tokens_at_most"] == pytest.approx(6 * once, abs=6)
    assert "1 of a prompt's samples per request" in str(found["basis"])


def test_answers_to_the_other_style_of_prompts_are_found(
    teacher: ScriptedTeacher, tmp_path: Path
) -> None:
    """An earlier job found out that the teacher chats, and paid."""
    here = make_here(tmp_path, TeacherConfig(url=teacher.url))
    body, before = estimate(here)
    assert (before["reused"], before["asked"]) == (0, 24)
    spec = parse_job_spec(body)
    keys = [
        SampleRequest(prompt.prompt, index).key
        for prompt in iter_prompts(here.store, spec, PromptForm("chat"))
        for index in range(prompt.samples)
    ]
    assert len(keys) == 24
    cache = GenerationCache(
        here.store,
        get_service(here.app, Gateway).shared.generation_buffer,
        teacher=digest(teacher.model, str(None)),
        sampling=SamplingParams.from_spec(spec.settings.rationales, "chat").fingerprint,
    )
    paid = {"index": 0, "text": "x", "finish_reason": "stop", "prompt_tokens": 1}
    cache.add(
        Generation(key=key, completion_tokens=1, job_id="ftjob-" + "0" * 24, **paid) for key in keys
    )
    _, after = estimate(here)
    assert (after["reused"], after["asked"], after["prompt_tokens"]) == (24, 0, 0)
