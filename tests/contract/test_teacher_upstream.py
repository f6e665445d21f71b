"""Upstreams that are busy, hang, lie or die, over real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse

from services.teacher.engines.upstream import UpstreamEngine, retry_after
from tests.contract.test_teacher_wire import events, generate, serving, wait_for


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
    thread.join(10)
    door.close()


@pytest.fixture
def far() -> Far:
    return Far()


@pytest.fixture
def url(far: Far) -> Iterator[str]:
    """A teacher in front of `far`."""
    with served(far.app()) as address:
        engine = UpstreamEngine(
            address, "m", key=None, max_total_tokens=None, max_input_tokens=None, silence=0.6
        )
        with serving(engine) as front:
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
    assert httpx.get(f"{url}/health").status_code == 200


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
        ("hang", 424, "ReadTimeout"),
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
    assert "tgi_batch_current_size 0.0" in httpx.get(f"{url}/metrics").text


def test_a_client_that_leaves_closes_the_upstreams_connection(url: str, far: Far) -> None:
    body = {"inputs": "endless", "parameters": {}}
    with httpx.stream("POST", f"{url}/generate_stream", json=body) as reply:
        lines = reply.iter_lines()
        for _ in range(4):
            next(lines)
        assert far.open == 1
    wait_for(lambda: far.open == 0)


def test_counts_and_likelihoods_are_the_upstreams_own(url: str, far: Far) -> None:
    last = events(url, "well", details=True, top_n_tokens=1)[-1]
    assert last["details"]["generated_tokens"] == 3
    assert last["details"]["input_length"] == 7
    tokens = generate(url, "well", details=True).json()["details"]["tokens"]
    assert [token["logprob"] for token in tokens] == [-0.5, None, None]
    assert far.calls[0]["stream_options"] == {"include_usage": True}
    told = httpx.post(f"{url}/v1/completions", json={"prompt": "well"}).json()["usage"]
    assert told == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_a_conversation_goes_on_to_the_upstream_with_its_functions(url: str, far: Far) -> None:
    tool = {"type": "function", "function": {"name": "sum", "parameters": {"properties": {}}}}
    body = {"messages": [{"role": "user", "content": "call"}], "tools": [tool]}
    choice = httpx.post(f"{url}/v1/chat/completions", json=body).json()["choices"][0]
    assert far.calls[0]["tools"][0]["function"]["name"] == "sum"
    assert far.calls[0]["messages"] == [{"role": "user", "content": "call"}]
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "sum"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"a":1}'


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after(None) is None
    assert retry_after("3") == 3
    assert retry_after("9999") == 30
    assert retry_after("soon") is None
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=10))
    assert 8 <= (retry_after(later) or 0) <= 10
