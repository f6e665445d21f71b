"""TGI's contract beyond the native basics, in strict mode and in ours: shapes, words, order."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from services.teacher.engines.base import EngineInfo, Token, ValidGenerateRequest
from tests.contract.teacher.test_wire import EOS, WORDS, Scripted, events, generate, serving

ASKED = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"properties": {}}}}


@dataclass
class Calling(Scripted):
    """Answers a forced call with a call of `say`; anything else as its parent does."""

    info: EngineInfo = field(
        default_factory=lambda: EngineInfo("scripted", "test", 999, 1000, supports_grammar=True)
    )
    say: str = "weather"

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        if request.grammar is None:
            async for token in super().submit(request):
                yield token
            return
        text = json.dumps({"function": {"_name": self.say, "city": "Ulm", "in": {"a": [1]}}})
        for i in range(0, len(text), 7):
            yield Token(1, text[i : i + 7], -0.1)
        yield EOS


@pytest.fixture(scope="module", params=[False, True], ids=["ours", "strict"])
def strict(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def engine() -> Calling:
    return Calling()


@pytest.fixture(scope="module")
def url(strict: bool, engine: Calling) -> Iterator[str]:
    with serving(engine, tgi_strict=strict) as address:
        yield address


def post(url: str, path: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}{path}", json=body)


def frames(url: str, path: str, **body: Any) -> list[Any]:
    reply = post(url, path, stream=True, **body)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    parts = reply.text.split("\n\n")
    assert parts.pop() == ""
    assert parts[-1] == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts[:-1]]


def test_completions(url: str, strict: bool) -> None:
    body = post(url, "/v1/completions", prompt=["a", "bc"], max_tokens=3, temperature=0).json()
    assert body["object"] == "text_completion"
    assert (body["id"] == "") is strict
    assert sorted(choice["index"] for choice in body["choices"]) == [0, 1]
    assert body["usage"] == {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    stopped = post(url, "/v1/completions", prompt="a", temperature=0, stop=[" two"]).json()
    choice = stopped["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (
        "one two",
        "stop_sequence" if strict else "stop",
    )
    ended = post(url, "/v1/completions", prompt="a", temperature=0).json()["choices"][0]
    assert ended["finish_reason"] == "stop"


def test_completions_stream(url: str, strict: bool) -> None:
    got = frames(url, "/v1/completions", prompt=["a", "b"], temperature=0)
    for index in (0, 1):
        mine = [f["choices"][0] for f in got if f["choices"][0]["index"] == index]
        text = "".join(choice["text"] for choice in mine)
        assert text == "".join(WORDS) + ("</s>" if strict else "")
        assert {choice["finish_reason"] for choice in mine[:-1]} == {"" if strict else None}
        assert mine[-1]["finish_reason"] == ("eos_token" if strict else "stop")
    ends = [f for f in got if "usage" in f]
    assert [f["usage"]["completion_tokens"] for f in ends] == [len(WORDS) + 1] * 2


@pytest.mark.parametrize(
    ("body", "error", "kind"),
    [
        (
            {"prompt": ["a"] * 5},
            "Number of prompts exceeds the maximum allowed batch size of 4",
            "batch size exceeded",
        ),
        (
            {"prompt": "a", "suffix": "b"},
            "Suffix is not supported and can be achieved by preprocessing the prompt.",
            "suffix not supported",
        ),
        (
            {"prompt": "a", "top_p": 1.5},
            "Input validation error: `top_p` must be > 0.0 and < 1.0",
            "validation",
        ),
    ],
)
def test_what_completions_refuse(url: str, body: dict[str, Any], error: str, kind: str) -> None:
    reply = post(url, "/v1/completions", **body)
    assert (reply.status_code, reply.json()) == (422, {"error": error, "error_type": kind})


def test_chat(url: str, strict: bool) -> None:
    body = post(
        url, "/v1/chat/completions", messages=ASKED, temperature=0, max_tokens=2, logprobs=True,
        top_logprobs=2, model="any",
    ).json()  # fmt: skip
    assert (body["object"], body["model"]) == ("chat.completion", "any")
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "one two"}
    assert choice["finish_reason"] == "length"
    assert [len(each["top_logprobs"]) for each in choice["logprobs"]["content"]] == [2, 2]
    assert body["usage"]["prompt_tokens"] == len("u:hi\na:")
    assert post(url, "/v1/chat/completions", messages=ASKED, model="tgi").json()["model"] == (
        "scripted"
    )


def test_chat_stream(url: str, strict: bool) -> None:
    got = frames(
        url, "/v1/chat/completions", messages=ASKED, temperature=0,
        stream_options={"include_usage": True},
    )  # fmt: skip
    assert got[-1]["choices"] == []
    assert got[-1]["usage"]["completion_tokens"] == len(WORDS) + 1
    choices = [frame["choices"][0] for frame in got[:-1]]
    assert "".join(choice["delta"].get("content", "") for choice in choices) == "".join(WORDS)
    assert [choice["finish_reason"] for choice in choices] == [None] * len(WORDS) + ["stop"]
    roles = ["role" in choice["delta"] for choice in choices]
    assert roles == [True] + [strict] * len(WORDS)


def test_errors_in_a_stream_are_events_and_done_follows(url: str, strict: bool) -> None:
    got = frames(url, "/v1/chat/completions", messages=[{"role": "user", "content": "fail"}])
    error = got[-1]["error"]
    assert error["message"] == "Request failed during generation: out of luck"
    assert error["http_status_code"] == (422 if strict else 424)
    got = frames(url, "/v1/completions", prompt="a", top_p=2.0)
    assert got == [{"error": {"message": got[0]["error"]["message"], "http_status_code": 422}}]


def test_a_last_message_of_the_assistant_is_continued(url: str) -> None:
    messages = [*ASKED, {"role": "assistant", "content": "I say"}]
    body = post(url, "/chat_tokenize", messages=messages).json()
    assert body["templated_text"] == "u:hi\na:I say"
    assert len(body["tokenize_response"]) == len(body["templated_text"])


def test_functions(url: str, engine: Calling, strict: bool) -> None:
    def ask(**more: Any) -> Any:
        given = {"messages": ASKED, "tools": [TOOL], "temperature": 0, **more}
        return post(url, "/v1/chat/completions", **given).json()

    for choice in ("auto", "required", "weather", {"function": {"name": "weather"}}):
        told = ask(tool_choice=choice)["choices"][0]
        assert ("content" in told["message"]) is not strict
        assert told["finish_reason"] == ("stop" if strict else "tool_calls")
        [call] = told["message"]["tool_calls"]
        assert (call["id"], call["type"]) == ("0", "function")
        assert call["function"] == {
            "description": None,
            "name": "weather",
            "arguments": '{"city":"Ulm","in":{"a":[1]}}',
        }
    plain = ask(tool_choice="none")["choices"][0]["message"]
    assert plain == {"role": "assistant", "content": "".join(WORDS)}
    engine.say = "no_tool"
    try:
        assert ask()["choices"][0]["message"] == plain
        got = frames(url, "/v1/chat/completions", messages=ASKED, tools=[TOOL], temperature=0)
        said = [frame["choices"][0]["delta"].get("content", "") for frame in got]
        assert "".join(said) == "".join(WORDS)
    finally:
        engine.say = "weather"
    assert ask(tool_choice="rain") == {
        "error": "Tool error: Tool with name rain not found",
        "error_type": "tool_error",
    }
    both = ask(tools=[], response_format={"type": "regex", "value": "a"})
    assert both["error"] == "Tool error: Grammar and tools are mutually exclusive"


def test_a_call_is_streamed_in_pieces(url: str, strict: bool) -> None:
    got = frames(url, "/v1/chat/completions", messages=ASKED, tools=[TOOL], temperature=0)
    choices = [frame["choices"][0] for frame in got]
    calls = [c["delta"]["tool_calls"][0] for c in choices if "tool_calls" in c["delta"]]
    assert calls[0]["function"]["name"] == "weather"
    assert len(calls) > 1
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(arguments) == {"city": "Ulm", "in": {"a": [1]}}
    assert choices[-1]["finish_reason"] == (None if strict else "tool_calls")


def test_best_of_gives_the_likeliest_and_the_others(url: str) -> None:
    body = generate(url, best_of=2, do_sample=True, max_new_tokens=3, details=True).json()
    [other] = body["details"]["best_of_sequences"]
    assert isinstance(other["seed"], int)
    assert other["seed"] != body["details"]["seed"]
    assert len(other["tokens"]) == other["generated_tokens"] == 3
    for more in ({"seed": 1}, {"do_sample": False}):
        given = {"best_of": 2, "do_sample": True, **more}
        assert generate(url, **given).status_code == 422


def test_invocations_and_vertex(url: str, strict: bool) -> None:
    assert isinstance(post(url, "/invocations", inputs="a", parameters={}).json(), list)
    chat = post(url, "/invocations", messages=ASKED, temperature=0, max_tokens=1).json()
    assert chat["choices"][0]["message"]["content"] == "one"
    done = post(url, "/invocations", prompt="a", temperature=0, max_tokens=1).json()
    assert done["choices"][0]["text"] == "one"
    assert post(url, "/invocations", other=1).status_code == 422
    given = {"max_new_tokens": 2, "seed": 4, "temperature": -1.0}
    instances = [{"inputs": "a", "parameters": given}] * 2
    first, second = post(url, "/vertex", instances=instances).json()["predictions"]
    assert first == second != ""
    assert post(url, "/vertex", instances=[]).status_code == 422
    failed = post(url, "/vertex", instances=[{"inputs": "fail"}])
    assert failed.status_code == (500 if strict else 424)
    if strict:
        told = {"error": "Incomplete generation", "error_type": "Incomplete generation"}
        assert failed.json() == told


@pytest.mark.parametrize(
    ("given", "status", "strictly"),
    [
        (
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "Failed to parse",
        ),
        ({"json": {"inputs": 1}}, 422, "Failed to deserialize"),
        ({"content": b"{}"}, 415, "Expected request with"),
        ({"json": {"inputs": "x" * 2_000_001}}, 413, "Failed to buffer"),
    ],
)
def test_bodies_that_cannot_be_read(
    url: str, strict: bool, given: dict[str, Any], status: int, strictly: str
) -> None:
    reply = httpx2.post(f"{url}/generate", **given)
    assert reply.status_code == status
    if strict:
        assert reply.headers["content-type"].startswith("text/plain")
        assert reply.text.startswith(strictly)
    else:
        assert reply.json()["error"].startswith(strictly)
        assert reply.json()["error_type"] == "validation"


def test_unknown_paths_and_methods(url: str, strict: bool) -> None:
    for reply in (httpx2.get(f"{url}/nowhere"), httpx2.get(f"{url}/generate")):
        assert reply.status_code in (404, 405)
        assert (reply.content == b"") is strict
    assert httpx2.get(f"{url}/docs").status_code == 200
    paths = httpx2.get(f"{url}/api-doc/openapi.json").json()["paths"]
    assert {"/generate", "/v1/chat/completions", "/vertex", "/invocations"} <= paths.keys()


def test_any_origin_may_ask(url: str) -> None:
    headers = {"origin": "http://elsewhere", "access-control-request-method": "POST"}
    reply = httpx2.options(f"{url}/generate", headers=headers)
    assert reply.headers["access-control-allow-origin"] in ("*", "http://elsewhere")


def test_the_headers_are_numbers(url: str) -> None:
    replies = [
        generate(url, max_new_tokens=2),
        post(url, "/v1/chat/completions", messages=ASKED, max_tokens=2),
        post(url, "/v1/completions", prompt=["a", "b"], max_tokens=2),
    ]
    names = "total validation queue inference".split()
    for reply in replies:
        timed = [reply.headers[f"x-{name}-time"] for name in names]
        told = [reply.headers[f"x-{n}"] for n in ("compute-characters", "time-per-token")]
        assert all(value.isdecimal() for value in (*timed, *told))
    assert [r.headers["x-generated-tokens"] for r in replies] == ["2", "2", "4"]
    assert [("x-compute-time" in r.headers) for r in replies] == [True, True, False]


def test_full_text_and_length_rule(url: str, strict: bool) -> None:
    [told] = post(url, "/", inputs="hi", parameters={"max_new_tokens": 1}).json()
    assert told["generated_text"] == ("hione" if strict else "one")
    assert generate(url, max_new_tokens=1, return_full_text=True).json()["generated_text"] == (
        "hione"
    )
    [last] = events(url, max_new_tokens=1)
    assert last["generated_text"] == "one"


def test_a_failed_generation_is_unhealthy_until_a_probe_succeeds(strict: bool) -> None:
    @dataclass
    class Broken(Scripted):
        broken: bool = False

        async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
            if self.broken:
                return
            async for token in super().submit(request):
                yield token

    engine = Broken()
    with serving(engine, tgi_strict=strict) as url:
        assert httpx2.get(f"{url}/health").status_code == 200
        engine.broken = True
        assert generate(url).status_code == 500
        health = httpx2.get(f"{url}/health")
        assert (health.status_code, health.json()["error_type"]) == (503, "healthcheck")
        engine.broken = False
        assert httpx2.get(f"{url}/health").status_code == 200


def test_a_request_without_a_token_for_long_is_told_to_come_back(strict: bool) -> None:
    with serving(Scripted(), teacher_queue_seconds=0.1, tgi_strict=strict) as url:
        reply = generate(url, "slow", max_new_tokens=1)
        assert reply.status_code == (200 if strict else 429)
        if not strict:
            assert int(reply.headers["retry-after"]) > 0
        assert generate(url).status_code == 200


def test_the_metrics_are_tgis(url: str) -> None:
    generate(url)
    text = httpx2.get(f"{url}/metrics").text
    names = """request_count request_success request_duration_bucket request_validation_duration_sum
    request_queue_duration_sum request_inference_duration_sum request_skipped_tokens_count
    request_mean_time_per_token_duration_sum request_input_length_bucket queue_size
    request_generated_tokens_bucket request_max_new_tokens_bucket batch_current_size
    batch_current_max_tokens batch_max_total_tokens batch_next_size_bucket"""
    for name in names.split():
        assert f"\ntgi_{name}" in f"\n{text}", name
    assert "_total " not in text.replace("max_total", "")


def test_grammars_are_checked_and_may_be_switched_off(url: str, strict: bool) -> None:
    bad = {"type": "json", "value": {"type": "object"}}
    assert generate(url, grammar=bad).json()["error"].endswith("must have a 'properties' field")
    good = {"type": "json_schema", "value": {"name": "n", "schema": {"properties": {"a": {}}}}}
    assert "weather" in generate(url, grammar=good, max_new_tokens=100).json()["generated_text"]
    with serving(Calling(), disable_grammar_support=True, tgi_strict=strict) as off:
        reply = generate(off, grammar=good)
        assert reply.json()["error"] == "Input validation error: grammar is not supported"
