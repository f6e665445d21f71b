"""Whole jobs whose teacher is a hosted provider: a chat model, and one that reasons first."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from qcrd.records.job import JobStatus
from tests.fake_providers import BY_NAME, PROMPT_TOKENS, FakeProvider
from tests.secrets import found_in
from tests.survival.hosted import knowing
from tests.survival.runs import Data, Run, asked_for, followed
from tests.survival.system import System
from tests.things import answered

KEY = "sk-of-the-provider-0123456789"
PROVIDERS = ("openai-reasoning", "deepseek")


@dataclass
class Hosted:
    """Providers by the names of the teachers that they are."""

    providers: dict[str, FakeProvider]


@pytest.fixture(scope="module")
def hosted(system: System) -> Iterator[Hosted]:
    """The gateway and its worker know these teachers, until the tests end."""
    providers = {name: FakeProvider(BY_NAME[name], answered, key=KEY) for name in PROVIDERS}
    known = {
        name: {"url": each.url, "api": "openai", "model": "m", "api_key_env": "PROVIDER_KEY"}
        for name, each in providers.items()
    }
    with knowing(system, known, {"PROVIDER_KEY": KEY}):
        yield Hosted(providers)
    for provider in providers.values():
        provider.close()


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_job_of_a_hosted_teacher_is_trained_and_pays_once(
    name: str, hosted: Hosted, system: System, data: Data, rng: random.Random
) -> None:
    room, given = asked_for(data)
    method: dict[str, Any] = given["method"]["qcrd"]
    method["teacher"] = name
    response = httpx2.post(f"{system.url()}/v1/fine_tuning/jobs", json=given, timeout=60)
    answer = response.raise_for_status().json()
    run = Run(system, answer["id"], room, followed(system, answer["id"], rng), answer["created_at"])
    job = run.ended()
    assert job.status is JobStatus.SUCCEEDED, f"{job.failure}\n{system.tails()}"
    provider = hosted.providers[name]
    assert job.usage.teacher_prompt_tokens == provider.prompt_tokens
    assert job.usage.teacher_prompt_tokens == PROMPT_TOKENS * provider.answered
    assert job.usage.teacher_completion_tokens == provider.completion_tokens
    log = b"".join(part.log.read_bytes() for part in system.parts.values() if part.starts)
    assert found_in(log, [KEY]) == []
    assert found_in(job.model_dump_json().encode(), [KEY]) == []
