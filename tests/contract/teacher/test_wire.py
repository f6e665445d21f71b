"""The wire contract over a real socket, against a small deterministic engine."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx2
import pytest
import uvicorn
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import GenerationError, OverloadedError, ValidationError

from services.teacher.app import create_app
from services.teacher.engines.base import (
    Conversation,
    Engine,
    EngineInfo,
    Grammar,
    SimpleToken,
    Token,
    ValidGenerateRequest,
)
from services.teacher.errors import GenerationFailed, InputValidationError
from services.teacher.main import make_lifespan
from services.teacher.metrics.batches import BatchMetrics
from services.teacher.settings import ServerSettings

TIMEOUT_SECONDS = 60.0
"""Of a request, on a machine that does other things too."""
WORDS = ("one", " two", " three", " four", " fünf", ".", "\n", "Q", ":")
EOS = Token(99, "</s>", -0.1, special=True, finish_reason="eos_token")


@dataclass
class Scripted:
    """Says WORDS in order, shuffled by the seed when sampling, then ends.

    Prompts are switches: `slow` waits before each token, `fail` raises, `break` ends early.
    """

    info: EngineInfo = field(default_factory=lambda: EngineInfo("scripted", "test", 63, 64))
    loaded: threading.Event | None = None
    given: int = 0
    batch_metrics: BatchMetrics = field(default_factory=BatchMetrics)
    _open: int = 0

    @property
    def open(self) -> int:
        return self._open

    @open.setter
    def open(self, count: int) -> None:
        self._open = count
        self.batch_metrics.set_current_batch(self, size=count, max_tokens=64 * count)

    async def start(self) -> None:
        while self.loaded is not None and not self.loaded.is_set():
            await asyncio.sleep(0.01)

    async def close(self) -> None: ...

    async def tokenize(
        self, text: str, *, add_special_tokens: bool = True
    ) -> Sequence[SimpleToken]:
        return [SimpleToken(ord(c) % 90, c, i, i + 1) for i, c in enumerate(text)]

    async def apply_chat_template(self, conversation: Conversation) -> str:
        return "".join(f"{m['role'][:1]}:{m['content']}\n" for m in conversation.messages) + "a:"

    async def score_prompt(self, request: ValidGenerateRequest) -> Sequence[Token]:
        return [
            Token(i, "x", None if n == 0 else -1.0) for n, i in enumerate(request.prompt_token_ids)
        ]

    async def check_grammar(self, grammar: Grammar) -> None:
        if "bad" in grammar.value:
            raise InputValidationError("grammar is not valid: bad")

    async def submit(self, request: ValidGenerateRequest) -> AsyncGenerator[Token, None]:
        words = list(enumerate(WORDS))
        if request.sampling.do_sample:
            Random(request.sampling.seed).shuffle(words)
        self.open += 1
        try:
            for i, word in words[: request.max_new_tokens]:
                await asyncio.sleep(0.2 if "slow" in request.prompt else 0)
                if "endless" in request.prompt and i == 1:
                    await asyncio.Event().wait()
                if "fail" in request.prompt and i == 2:
                    raise GenerationFailed("out of luck")
                if "break" in request.prompt and i == 2:
                    return
                self.given += 1
                top = (Token(i, word, -0.5), Token(i + 1, "x", -1.5))
                yield Token(i, word, -0.5, top_tokens=top[: request.top_n_tokens])
            yield EOS
        finally:
            self.open -= 1


@contextmanager
def serving(engine: Engine, *, wait: bool = True, **settings: Any) -> Iterator[str]:
    """The URL of a real server in a thread of its own; `wait` for the engine to be loaded."""
    door = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{door.getsockname()[1]}"
    failures: list[str] = []
    app = create_app(engine, ServerSettings(**settings))
    app.router.lifespan_context = make_lifespan(engine, failures.append)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
    thread.start()
    try:
        while wait and httpx2.get(f"{url}/health", timeout=TIMEOUT_SECONDS).status_code != 200:
            assert not failures, failures
            time.sleep(0.05)
        yield url
    finally:
        server.should_exit = True
        thread.join(60)
        door.close()


@pytest.fixture(scope="module")
def engine() -> Scripted:
    return Scripted()


@pytest.fixture(scope="module")
def url(engine: Scripted) -> Iterator[str]:
    with serving(engine) as address:
        yield address


def generate(url: str, inputs: str = "hi", /, **parameters: Any) -> httpx2.Response:
    body = {"inputs": inputs, "parameters": parameters}
    return httpx2.post(f"{url}/generate", json=body, timeout=TIMEOUT_SECONDS)


def events(url: str, inputs: str = "hi", /, **parameters: Any) -> list[dict[str, Any]]:
    body = {"inputs": inputs, "parameters": parameters}
    reply = httpx2.post(f"{url}/generate_stream", json=body, timeout=TIMEOUT_SECONDS)
    assert reply.status_code == 200
    assert reply.headers["content-type"].startswith("text/event-stream")
    frames = reply.text.split("\n\n")
    assert frames[-1] == ""
    assert all(frame.startswith("data: {") and "\n" not in frame for frame in frames[:-1])
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-1]]


def test_health_info_and_models(url: str) -> None:
    for path in ("/", "/health", "/ping"):
        reply = httpx2.get(url + path)
        assert (reply.status_code, reply.content) == (200, b"")
    info = httpx2.get(f"{url}/info").json()
    assert info["model_id"] == "scripted"
    assert info["max_concurrent_requests"] == 128
    assert {"max_best_of", "max_stop_sequences", "max_input_tokens", "version"} <= info.keys()
    model = {"id": "scripted", "object": "model", "created": 0, "owned_by": "scripted"}
    assert httpx2.get(f"{url}/v1/models").json() == {"object": "list", "data": [model]}


def test_generate_gives_an_object_and_the_root_an_array(url: str) -> None:
    text = "".join(WORDS)
    assert generate(url).json() == {"generated_text": text}
    assert httpx2.post(url, json={"inputs": "hi", "parameters": {}}).json() == [
        {"generated_text": text}
    ]


def test_details_in_tgis_order(url: str) -> None:
    body = generate(url, max_new_tokens=3, details=True, top_n_tokens=2).json()
    details = body["details"]
    assert list(details) == [
        "finish_reason",
        "generated_tokens",
        "seed",
        "prefill",
        "tokens",
        "top_tokens",
    ]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 3)
    assert details["seed"] is None
    assert details["tokens"][0] == {"id": 0, "text": "one", "logprob": -0.5, "special": False}
    assert [len(top) for top in details["top_tokens"]] == [2, 2, 2]
    assert "".join(token["text"] for token in details["tokens"]) == body["generated_text"]


def test_the_three_reasons_to_finish(url: str) -> None:
    ended = generate(url, details=True).json()
    assert ended["details"]["finish_reason"] == "eos_token"
    assert ended["details"]["generated_tokens"] == len(WORDS) + 1
    assert ended["details"]["tokens"][-1]["special"] is True
    assert not ended["generated_text"].endswith("</s>")
    stopped = generate(url, details=True, stop=["Q:"]).json()
    assert stopped["details"]["finish_reason"] == "stop_sequence"
    assert stopped["generated_text"].endswith("\nQ:")
    assert generate(url, max_new_tokens=1).json() == {"generated_text": "one"}


def test_seeds_replay_and_a_drawn_one_is_told(url: str) -> None:
    drawn = generate(url, do_sample=True, details=True).json()
    seed = drawn["details"]["seed"]
    assert isinstance(seed, int)
    assert (
        generate(url, do_sample=True, seed=seed).json()["generated_text"]
        == (drawn["generated_text"])
    )
    assert generate(url, do_sample=True, seed=seed + 1).json() != drawn


def test_prompt_in_front_and_truncated(url: str) -> None:
    reply = generate(url, "hello", return_full_text=True, truncate=2, max_new_tokens=1)
    assert reply.json() == {"generated_text": "loone"}
    assert reply.headers["x-prompt-tokens"] == "2"
    assert reply.headers["x-generated-tokens"] == "1"
    for name in ("total", "validation", "queue", "inference", "compute"):
        assert float(reply.headers[f"x-{name}-time"]) >= 0


def test_stream_events(url: str) -> None:
    got = events(url, "hello", max_new_tokens=3, details=True, do_sample=True, seed=3)
    assert [event["index"] for event in got] == [1, 2, 3]
    assert list(got[0]) == ["index", "token", "generated_text", "details"]
    assert [event["generated_text"] for event in got[:2]] == [None, None]
    assert got[-1]["generated_text"] == "".join(event["token"]["text"] for event in got)
    assert got[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 3,
        "seed": 3,
        "input_length": 5,
    }
    assert len(events(url, max_new_tokens=1)) == 1
    assert events(url)[-1]["token"]["text"] == "</s>"


def test_stream_errors_are_events_with_status_200(url: str) -> None:
    refused = {
        "error": "Input validation error: `temperature` must be strictly positive",
        "error_type": "validation",
    }
    assert events(url, temperature=0.0) == [refused]
    failed = events(url, "fail")
    assert failed[-1] == {
        "error": "Request failed during generation: out of luck",
        "error_type": "generation",
    }
    assert len(failed) == 3
    assert events(url, "break")[-1] == {
        "error": "Incomplete generation stream",
        "error_type": "incomplete_generation_stream",
    }


@pytest.mark.parametrize(
    ("prompt", "status", "error_type"),
    [("fail", 424, "generation"), ("break", 500, "incomplete_generation")],
)
def test_engine_errors(url: str, prompt: str, status: int, error_type: str) -> None:
    reply = generate(url, prompt)
    assert (reply.status_code, reply.json()["error_type"]) == (status, error_type)


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "error_type"),
    [
        ("POST", "/generate", {"content": b"{", "headers": {}}, 415, "validation"),
        ("POST", "/generate", {"content": b"{"}, 400, "validation"),
        ("POST", "/generate", {"content": b'{"inputs":1}'}, 422, "validation"),
        ("POST", "/generate", {"content": b'"' + b"x" * 2_000_001}, 413, "validation"),
        ("POST", "/generate", {"content": b'{"inputs":""}'}, 422, "validation"),
        ("GET", "/generate", {}, 405, "method_not_allowed"),
        ("GET", "/nowhere", {}, 404, "not_found"),
    ],
)
def test_every_error_has_tgis_shape(
    url: str, method: str, path: str, sent: dict[str, Any], status: int, error_type: str
) -> None:
    sent = {"headers": {"content-type": "application/json; charset=utf-8"}, **sent}
    reply = httpx2.request(method, url + path, **sent)
    assert reply.status_code == status
    assert reply.json()["error_type"] == error_type
    assert set(reply.json()) == {"error", "error_type"}


def test_tokenize(url: str) -> None:
    reply = httpx2.post(f"{url}/tokenize", json={"inputs": "ab", "parameters": {"top_p": 7}})
    assert reply.json() == [
        {"id": 7, "text": "a", "start": 0, "stop": 1},
        {"id": 8, "text": "b", "start": 1, "stop": 2},
    ]


def test_the_key_guards_generation_only() -> None:
    with serving(Scripted(), api_key="Secret") as url:
        assert httpx2.get(f"{url}/info").status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}):
            reply = httpx2.post(f"{url}/generate", json={"inputs": "a"}, headers=headers)
            assert (reply.status_code, reply.json()["error_type"]) == (401, "unauthorized")
        headers = {"authorization": "bearer sEcret"}
        reply = httpx2.post(f"{url}/generate", json={"inputs": "a"}, headers=headers)
        assert reply.status_code == 200


def test_503_while_loading() -> None:
    loaded = threading.Event()
    with serving(Scripted(loaded=loaded), wait=False) as url:
        health = httpx2.get(f"{url}/health")
        assert (health.status_code, health.json()["error_type"]) == (503, "healthcheck")
        reply = generate(url)
        assert (reply.status_code, reply.json()["error_type"]) == (503, "loading")
        assert int(reply.headers["retry-after"]) > 0
        loaded.set()
        wait_for(lambda: httpx2.get(f"{url}/health").status_code == 200)
        assert generate(url).status_code == 200


def test_full_is_429_at_once_and_before_validation() -> None:
    engine = Scripted()
    with serving(engine, max_concurrent_requests=1) as url:
        with httpx2.stream("POST", f"{url}/generate_stream", json={"inputs": "slow"}) as first:
            lines = first.iter_lines()
            next(lines)
            reply = generate(url, temperature=0.0)
            assert reply.status_code == 429
            assert reply.json() == {"error": "Model is overloaded", "error_type": "overloaded"}
            assert int(reply.headers["retry-after"]) > 0
            assert generate(url, best_of=3).status_code == 422
            with pytest.raises(OverloadedError):
                InferenceClient(url).text_generation("a")
        wait_for(lambda: engine.open == 0)
        assert generate(url, "fail").status_code == 424
        assert generate(url, temperature=0.0).status_code == 422
        assert generate(url).status_code == 200


def wait_for(true: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_a_client_that_leaves_stops_the_engine(url: str, engine: Scripted, path: str) -> None:
    """It would never end by itself. Drawn at random, one answer in nine has no first word."""
    before = engine.given
    body = b'{"inputs": "endless", "parameters": {}}'
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
    port = int(url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait_for(lambda: engine.open == 1 and engine.given > before)
    wait_for(lambda: engine.open == 0)
    assert engine.given - before < len(WORDS)


def test_metrics_move_and_count_each_request_once(url: str) -> None:
    def read() -> dict[str, float]:
        lines = httpx2.get(f"{url}/metrics").text.splitlines()
        return {
            name: float(value)
            for name, value in (line.rsplit(" ", 1) for line in lines)
            if not name.startswith("#")
        }

    before = read()
    generate(url)
    generate(url, temperature=0.0)
    after = read()
    refused = 'tgi_request_failure{err="validation"}'
    assert after["tgi_request_count"] - before["tgi_request_count"] == 2
    assert after["tgi_request_success"] - before["tgi_request_success"] == 1
    assert after[refused] - before.get(refused, 0) == 1
    for name in ("duration", "queue_duration", "inference_duration", "generated_tokens"):
        assert after[f"tgi_request_{name}_count"] > before[f"tgi_request_{name}_count"]
    assert (after["tgi_queue_size"], after["tgi_batch_current_size"]) == (0, 0)


def test_the_maintained_client_streams_details(url: str) -> None:
    async def run() -> list[Any]:
        client = AsyncInferenceClient(url)
        stream = await client.text_generation(
            "hi",
            details=True,
            stream=True,
            do_sample=True,
            temperature=0.7,
            seed=7,
            max_new_tokens=20,
            stop=[":"],
        )
        return [event async for event in stream]

    got = asyncio.run(run())
    assert got[-1].details.finish_reason == "stop_sequence"
    assert got[-1].details.seed == 7
    assert got[-1].details.input_length == 2
    assert got[-1].generated_text == "".join(event.token.text for event in got)
    assert got[-1].generated_text.endswith(":")


def test_the_maintained_client_reads_answers_and_errors(url: str) -> None:
    client = InferenceClient(url)
    assert client.text_generation("hi", max_new_tokens=2) == "one two"
    whole = client.text_generation("hi", details=True)
    assert whole.details.tokens[-1].special is True
    with pytest.raises(ValidationError, match="`top_k` must be strictly positive"):
        client.text_generation("hi", top_k=0)
    with pytest.raises(GenerationError):
        client.text_generation("fail")
    with pytest.raises(GenerationError):
        list(client.text_generation("fail", stream=True))


def start(**environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "services.teacher.main"]
    env = {**os.environ, **environment}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def test_a_process_without_its_model_ends_with_one_line() -> None:
    process = start(MODEL_ID="/nowhere/model.gguf")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == (
        "teacher: MODEL_ID=/nowhere/model.gguf: "
        "no such file: give the path of an existing .gguf file\n"
    )


def test_sigterm_lets_the_running_request_finish() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    process = start(PORT=str(port), TEACHER_SLOTS="2", MAX_TOTAL_TOKENS="256")
    url = f"http://127.0.0.1:{port}"

    def healthy() -> bool:
        try:
            return httpx2.get(f"{url}/health").status_code == 200
        except httpx2.ConnectError:
            return False

    wait_for(healthy, 60)
    body = {"inputs": "Count: one,", "parameters": {"max_new_tokens": 30, "details": True}}
    with httpx2.stream("POST", f"{url}/generate_stream", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        next(lines)
        process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["details"]["finish_reason"]
    process.communicate(timeout=60)
    assert process.returncode == 0
