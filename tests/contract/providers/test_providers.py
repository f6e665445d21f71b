"""Whole rounds of a job's questions against each OpenAI-compatible provider that is imitated."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from qcrd.records.job import Job, JobStatus, Stage, Usage
from services.api.assembling.teacher.make_client import make_teacher_client
from services.api.assembling.teacher.openai.connection import make_openai_client
from services.api.settings import TeacherConfig
from services.teacher.engines.upstream.engine import UpstreamEngine
from tests.contract.teacher.test_wire import serving
from tests.fakes.providers import BY_NAME, PROMPT_TOKENS, ROWS, FakeProvider, Row, make_error
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.assembling.assembling_bench import QUICK, Bench, adds

KEY = "sk-of-the-team-0123456789"
SAMPLES, QUESTIONS = 3, 4
SENT_PARAMETERS = {"max_tokens", "temperature", "seed", "stream_options"}

Provide = Callable[..., tuple[Bench, FakeProvider]]


@pytest.fixture
def provide() -> Iterator[Provide]:
    """A gateway's worker whose teacher is a provider, without a teacher server between."""
    unused, open_ = ScriptedTeacher(adds), list[FakeProvider]()

    def make(row: Row, *, teacher: dict[str, Any] | None = None, **script: Any):  # type: ignore[no-untyped-def]
        provider = FakeProvider(row, script.pop("answer", adds), key=KEY, **script)
        open_.append(provider)
        here = Bench(unused)
        here.teachers = {"default": make_config(provider, **(teacher or {}))}
        return here, provider

    yield make
    for provider in open_:
        provider.close()
    unused.close()


def make_config(provider: FakeProvider, **changes: Any) -> TeacherConfig:
    row = provider.row
    access: dict[str, Any] = {"api_key": SecretStr(KEY)}
    if row.key_header != "authorization":
        access = {"headers": {row.key_header: SecretStr(KEY)}}
    if row.wants_query is not None:
        access["query"] = {row.wants_query[0]: SecretStr(row.wants_query[1])}
    given = {"url": provider.url, "api": "openai", "model": "m", "concurrency": 6}
    return TeacherConfig(**{**given, **access, **changes})


def rows(count: int = QUESTIONS) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "label": str(i + 1)} for i in range(count)]


def run(here: Bench, count: int = QUESTIONS, **rationales: Any) -> Job:
    job = here.job(here.file(rows(count)), rationales={"n": SAMPLES, **rationales})
    return here.run(job, QUICK)


def told(here: Bench, job: Job) -> str:
    """Everything that a user can read of the job."""
    events = [event.model_dump_json() for event in here.events.read(job.id, None, 1000)]
    return "\n".join([*events, job.model_dump_json()])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_round_against_each_provider(row: Row, provide: Provide) -> None:
    """Every sample comes once, each refusal is met once, and what the provider wants paid is what
    the job says, or less than what it says where the provider does not tell."""
    here, provider = provide(row)
    job = run(here)
    assert (job.stage, job.failure) == (Stage.TRAINING, None), told(here, job)
    counts = here.manifest(job).counts
    assert (counts.outputs, counts.unparseable) == (SAMPLES * QUESTIONS, 0)
    assert provider.choices_given == SAMPLES * QUESTIONS
    refused = len(row.refuses.keys() & SENT_PARAMETERS)
    refused += row.n_refusal is not None and row.choices < SAMPLES
    assert len(provider.requests) == provider.answered + refused
    paid, usage = provider.prompt_tokens, job.usage
    if row.counts == "nothing":
        assert usage.estimated
    else:
        assert usage.teacher_prompt_tokens == paid == PROMPT_TOKENS * provider.answered
        assert usage.teacher_completion_tokens >= provider.completion_tokens
    if row.counts in ("all", "each", "without_reasoning"):
        assert usage.teacher_completion_tokens == provider.completion_tokens
        assert not usage.estimated
    assert KEY not in told(here, job)


@pytest.mark.parametrize(
    "row",
    [row for row in ROWS if row.refuses.keys() & SENT_PARAMETERS or row.choices < SAMPLES],
    ids=lambda row: row.name,
)
def test_a_second_job_meets_no_refusal_again(row: Row, provide: Provide) -> None:
    """Also one of another process, which has only what the first one left, and its events say what
    is left out of its requests."""
    here, provider = provide(row)
    run(here)
    first = len(provider.requests)
    job = run(here, max_new_tokens=77)  # outputs of its own
    assert (job.stage, job.failure) == (Stage.TRAINING, None)
    assert len(provider.requests) - first == SAMPLES * QUESTIONS // min(SAMPLES, row.choices)
    assert told(here, job).count("an earlier job found out") == bool(
        row.refuses.keys() & SENT_PARAMETERS
    ) + (row.choices < SAMPLES)


def test_what_one_schema_meets_is_not_held_against_another(provide: Provide) -> None:
    here, provider = provide(BY_NAME["deepseek"], answer=lambda prompt, seed: adds(prompt, 1))
    for room in (60, 61):
        run(here, format="json", max_new_tokens=room)
    assert sum("response_format" in body for body in provider.requests) == 2


def test_another_models_refusals_say_nothing(provide: Provide) -> None:
    here, provider = provide(BY_NAME["openai-reasoning"])
    run(here)
    here.teachers = {"default": make_config(provider, model="other")}
    first = len(provider.requests)
    run(here)
    refused = len(provider.requests) - first - QUESTIONS
    assert refused == len(BY_NAME["openai-reasoning"].refuses.keys() & SENT_PARAMETERS)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.choices >= SAMPLES], ids=lambda r: r.name
)
def test_a_prompt_is_paid_once_where_choices_are_given(row: Row, provide: Provide) -> None:
    here, provider = provide(row)
    run(here)
    assert provider.answered == QUESTIONS


@pytest.mark.parametrize("row", [row for row in ROWS if row.choices == 1], ids=lambda r: r.name)
def test_choices_that_are_not_given_are_asked_for_singly(row: Row, provide: Provide) -> None:
    """Learnt from the first answer, and said."""
    here, provider = provide(row)
    job = run(here)
    assert sum(body.get("n", 1) > 1 for body in provider.requests) == 1
    assert "one sample of a prompt per request" in told(here, job)


def test_more_choices_than_a_server_has_room_for_go_in_parts(provide: Provide) -> None:
    here, provider = provide(BY_NAME["llama.cpp"])
    job = run(here, n=10)
    assert (job.stage, here.manifest(job).counts.outputs) == (Stage.TRAINING, 10 * QUESTIONS)
    assert {body.get("n", 1) for body in provider.requests[1:]} == {4, 2}
    assert provider.answered == 3 * QUESTIONS


def test_samples_that_are_there_are_taken_off_the_request(provide: Provide) -> None:
    here, provider = provide(BY_NAME["vllm"])
    run(here, n=2)
    before = len(provider.requests)
    job = run(here, n=5)
    assert [body.get("n") for body in provider.requests[before:]] == [3] * QUESTIONS
    assert here.manifest(job).counts.reused == 2 * QUESTIONS


@pytest.mark.parametrize("quirk", ["gzip", "split", "unended", "redirect", "unlisted"])
def test_odd_wires_are_read(quirk: str, provide: Provide) -> None:
    here, _ = provide(BY_NAME["openai"], quirk=quirk, answer=say_in_many_scripts)
    job = run(here)
    assert (job.stage, here.manifest(job).counts.unparseable) == (Stage.TRAINING, 0), told(
        here, job
    )
    assert "naïve 東京 🙂" in here.items(job)[0].positives[0].text


@pytest.mark.anyio
@pytest.mark.parametrize(("url", "kept"), [("https://x/v1", True), ("http://x/v1", False)])
async def test_connections_are_kept_where_a_handshake_costs(url: str, kept: bool) -> None:
    """llama.cpp's server breaks some that are used again."""
    client = make_openai_client(TeacherConfig(url=url, api="openai", model="m"), url)
    try:
        pool = client._client._transport._pool  # type: ignore[attr-defined]
        assert (pool._max_keepalive_connections > 0) == kept
    finally:
        await client.close()


@pytest.mark.parametrize("name", ["openai", "azure"])
def test_a_redirect_to_another_server_does_not_get_the_key(name: str, provide: Provide) -> None:
    """Neither in `authorization` nor in a header of the configuration."""
    here, provider = provide(BY_NAME[name], quirk="redirect")
    other = FakeProvider(replace(BY_NAME[name], wants_query=None), adds)
    try:
        provider.elsewhere = f"http://127.0.0.1:{other.port}"
        job = run(here)
    finally:
        other.close()
    assert (job.stage, job.failure) == (Stage.TRAINING, None), told(here, job)
    assert other.requests
    assert KEY not in str(other.headers)


def say_in_many_scripts(prompt: str, seed: int) -> str:
    return f"naïve 東京 🙂{adds(prompt, seed)}"


def test_a_page_in_place_of_a_stream_is_told(provide: Provide) -> None:
    here, _ = provide(BY_NAME["openai"], quirk="html")
    job = run(here)
    assert job.failure is not None
    assert "text/html" in job.failure.message
    assert "QCRD_TEACHERS" in job.failure.message


def test_an_answer_that_is_cut_off_is_asked_for_again(provide: Provide) -> None:
    here, provider = provide(BY_NAME["silent"], quirk="cut")
    job = here.job(here.file(rows(1)), rationales={"n": 1})
    here.run(job, QUICK)
    assert provider.answered > 1


def test_an_error_within_a_stream_is_no_answer(provide: Provide) -> None:
    here, _ = provide(BY_NAME["openai"], quirk="late")
    job = run(here)
    assert job.stage is Stage.ASSEMBLING
    assert "Provider disconnected" in told(here, job)


def test_a_filtered_question_is_counted_and_left_out(provide: Provide) -> None:
    here, provider = provide(BY_NAME["openai"], quirk="filtered")
    job = run(here, n=1)
    assert job.status is JobStatus.PAUSED
    assert "questions: filtered" in told(here, job)
    paid = (provider.prompt_tokens, provider.completion_tokens)
    assert (job.usage.teacher_prompt_tokens, job.usage.teacher_completion_tokens) == paid
    assert job.usage.uncertain == 0


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (401, "invalid_api_key", "refuses the key"),
        (403, "forbidden", "refuses the key"),
        (404, "model_not_found", "`model`"),
    ],
)
def test_what_no_repetition_helps_fails_at_once_without_the_key(
    status: int, code: str, said: str, provide: Provide
) -> None:
    here, provider = provide(BY_NAME["openai"])
    provider.failures = [(status, make_error(f"no: {KEY}", code=code), {})] * 20
    job = run(here)
    assert job.failure is not None
    assert said in job.failure.message
    assert KEY not in told(here, job)
    assert len(provider.requests) <= 2


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_bad_weather_is_waited_for(status: int, provide: Provide) -> None:
    here, provider = provide(BY_NAME["openai"])
    date = "Sat, 28 Nov 2020 10:00:00 GMT"  # over: to be tried at once
    provider.failures = [(status, make_error("loading"), {"retry-after": date})] * 2
    job = run(here)
    assert (job.stage, job.failure) == (Stage.TRAINING, None)


OVERLOADED = {"error": {"message": "Provider overloaded", "code": 502}}


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (200, "<html>We are back in a minute</html>"),
        (200, {"error": {"message": "Overloaded", "code": 529}}),
        (200, b"data: " + json.dumps(OVERLOADED).encode() + b"\n\n"),
    ],
    ids=["page", "json", "event"],
)
def test_a_bad_moment_of_a_server_that_has_answered_costs_nothing(
    status: int, told: Any, provide: Provide
) -> None:
    here, provider = provide(BY_NAME["openai"])
    provider.failures = [(status, told, {})] * 5
    provider.answers_before_failures = 1
    job = run(here)
    assert (job.stage, job.failure) == (Stage.TRAINING, None)
    assert job.usage.uncertain == 0
    assert job.usage.teacher_completion_tokens == provider.completion_tokens


def test_a_firewall_s_refusal_of_one_question_is_not_the_key_s(provide: Provide) -> None:
    here, provider = provide(BY_NAME["openai"])
    provider.failures = [(403, "<html>blocked</html>", {})]
    provider.answers_before_failures = 1
    job = run(here)
    assert (job.stage, job.failure) == (Stage.TRAINING, None)
    assert here.manifest(job).counts.outputs == SAMPLES * (QUESTIONS - 1)
    assert "a firewall before" in told(here, job)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt_tokens": 10.7, "completion_tokens": 1e30},
        {"prompt_tokens": -500, "completion_tokens": -500, "total_tokens": -1000},
        {"prompt_tokens": "10", "completion_tokens": "12", "prompt_tokens_details": "none"},
        {"completion_tokens": True, "total_tokens": [1]},
    ],
    ids=["fractions", "negative", "texts", "others"],
)
def test_a_usage_that_counts_nothing_is_estimated(
    changes: dict[str, Any], provide: Provide
) -> None:
    here, provider = provide(BY_NAME["openai"])
    provider.usage_changes = changes
    job = run(here)
    assert (job.stage, job.failure) == (Stage.TRAINING, None)
    usage = Usage.model_validate_json(job.usage.model_dump_json())
    assert usage.estimated
    assert usage.teacher_prompt_tokens > 0
    assert provider.completion_tokens <= usage.teacher_completion_tokens < 10_000


def test_an_answer_without_end_is_not_read_to_its_end(provide: Provide) -> None:
    """And what it counts as is near what was asked for, not all that a server sends."""
    here, _ = provide(BY_NAME["silent"], answer=lambda prompt, seed: "x " * 500_000)
    job = run(here, count=1, n=1, max_new_tokens=16)
    assert job.usage.teacher_completion_tokens < 10_000


def test_too_long_a_prompt_is_left_out_and_told(provide: Provide) -> None:
    here, provider = provide(BY_NAME["vllm"])
    words = "This model's maximum context length is 40 tokens. However, you requested 60 tokens"
    provider.failures = [(400, make_error(words, code="context_length_exceeded"), {})]
    job = run(here)
    assert here.manifest(job).counts.refused == 1
    assert "too_long 1" in told(here, job)


def test_a_style_that_is_named_stays(provide: Provide) -> None:
    here, _ = provide(BY_NAME["openai"])
    job = run(here, prompt="completion")
    assert job.failure is not None
    assert "is a chat model" in job.failure.message


def test_few_shot_examples_are_turns(provide: Provide) -> None:
    here, provider = provide(BY_NAME["openai"])
    shots = [{"question": "What is 0 + 1?", "explanation": "One.", "answer": "1"}]
    task = {"answer": "number", "instruction": "Add.", "examples": shots}
    here.run(here.job(here.file(rows(1)), task=task, rationales={"n": 1}), QUICK)
    messages = provider.requests[0]["messages"]
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Add. ")
    assert messages[2]["content"] == "<Explanation>: One.\n<Answer>: 1"
    assert messages[3]["content"] == "What is 0 + 1?"
    assert "stop" not in provider.requests[0]


@pytest.mark.parametrize(
    ("source", "begins"), [("auto", "One more"), ("reasoning", "First I add one.")]
)
@pytest.mark.parametrize("name", ["deepseek", "openrouter", "thinks-aloud", "thinks-unclosed"])
def test_the_student_learns_the_explanation_or_the_reasoning(
    name: str, source: str, begins: str, provide: Provide
) -> None:
    here, _ = provide(BY_NAME[name])
    job = run(here, **{"from": source})
    assert all(
        positive.text.startswith(begins) for item in here.items(job) for positive in item.positives
    )


def test_empty_answers_stop_the_job_early(provide: Provide) -> None:
    """After ten, not when the budget is spent."""
    here, provider = provide(BY_NAME["openai"], quirk="empty")
    job = run(here, 40, n=1)
    assert job.status is JobStatus.PAUSED
    assert provider.answered < 20
    assert "empty" in told(here, job)


def test_cached_prompts_cost_less(provide: Provide) -> None:
    """Five of eleven tokens at a tenth: 6 × 1 + 5 × 0.1 = 6.5 millionths a prompt."""
    row = replace(BY_NAME["openai"], cached=5)
    prices = {"prompt_price": 1.0, "completion_price": 2.0, "cached_prompt_price": 0.1}
    here, provider = provide(row, teacher=prices)
    usage = run(here).usage
    assert usage.teacher_cached_tokens == 5 * QUESTIONS
    assert usage.cost == pytest.approx(
        (6.5 * QUESTIONS + 2.0 * provider.completion_tokens) / 1e6, rel=1e-9
    )


@pytest.mark.parametrize("name", ["openai", "deepseek"])
def test_answers_as_json(name: str, provide: Provide) -> None:
    """Of the schema where it is enforced, asked for by words where it is refused."""
    here, provider = provide(BY_NAME[name], answer=lambda prompt, seed: adds(prompt, 1))
    job = run(here, format="json")
    assert here.manifest(job).counts.positives == SAMPLES * QUESTIONS
    assert here.items(job)[0].positives[0].text == "One more than 0."
    asked = [body["response_format"] for body in provider.requests if "response_format" in body]
    schema = asked[0]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["explanation", "answer"]
    assert schema["additionalProperties"] is False
    assert "JSON object" in provider.requests[0]["messages"][0]["content"]
    assert len(asked) == (1 if name == "deepseek" else len(provider.requests))


@pytest.mark.anyio
async def test_the_context_is_what_the_server_states(provide: Provide) -> None:
    here, _ = provide(BY_NAME["vllm"])
    client = make_teacher_client("default", here.teachers["default"])
    try:
        assert (await client.fetch_info()).max_total_tokens == 8192
    finally:
        await client.close()


def test_a_chat_model_behind_a_teacher_server_is_asked_by_chat(provide: Provide) -> None:
    """Found out from its refusal of a text, where nobody named a style, and said."""
    here, provider = provide(BY_NAME["openai"])
    engine = UpstreamEngine(
        provider.url, "m", api_key=KEY, max_total_tokens=None, max_input_tokens=None
    )
    with serving(engine) as url:
        here.teachers = {"default": TeacherConfig(url=url, concurrency=6)}
        job = run(here)
    assert (job.stage, job.failure) == (Stage.TRAINING, None), told(here, job)
    assert "asked by chat prompts" in told(here, job)
    assert here.manifest(job).counts.outputs == SAMPLES * QUESTIONS
    assert job.usage.teacher_prompt_tokens == provider.prompt_tokens
    assert job.usage.uncertain == 0
    refused = [body for body in provider.requests if "messages" not in body]
    assert len(refused) == 1, "the others wait for the answer to the first"
