"""Load for a teacher: server processes, many streaming clients, and an upstream of known speed."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from benchmarks.step_cost.fixtures import SEED, WORDS
from qcrd.cli.stack.ports import find_free_port

PROMPT_TOKENS, NEW_TOKENS, TEMPERATURE = 300, 96, 0.7
UPSTREAM_RATE, UPSTREAM_TOKENS = 10_000, 960
"""Tokens per second of the fake upstream over all its streams, and tokens of each stream: many,
because at this speed connecting would otherwise be most of what is measured.
"""
STREAM_RATE = 100
"""Tokens per second of each of its streams where the model is `PACED`: what hosted chat models
write is of this order, and their streams do not wait for each other."""
PACED = "paced"


@dataclass
class LoadResult:
    """The results of one burst of concurrent requests; times in seconds."""

    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens per second of all requests together."""
        return self.tokens / self.seconds


def make_prompts(count: int, seed: int, tokens: int = PROMPT_TOKENS) -> list[str]:
    """Texts of about `tokens` tokens without a common prefix; each word is one token."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=tokens)) for _ in range(count)]


def make_native_body(prompt: str, seed: int, tokens: int = NEW_TOKENS) -> dict[str, Any]:
    parameters = {
        "max_new_tokens": tokens, "temperature": TEMPERATURE, "do_sample": True, "seed": seed,
    }  # fmt: skip
    return {"inputs": prompt, "parameters": parameters}


def make_openai_body(prompt: str, seed: int, tokens: int) -> dict[str, Any]:
    return {
        "model": "fake", "prompt": prompt, "max_tokens": tokens, "temperature": TEMPERATURE,
        "seed": seed, "stream": True,
    }  # fmt: skip


async def send_burst(url: str, bodies: list[dict[str, Any]]) -> LoadResult:
    """Send all `bodies` to `url` at once, streamed; every `data:` line with a token counts."""
    result = LoadResult()
    limits = httpx2.Limits(max_connections=len(bodies))
    async with httpx2.AsyncClient(timeout=600, limits=limits, trust_env=False) as client:
        started = time.perf_counter()
        await asyncio.gather(*(_send_request(client, url, body, result) for body in bodies))
        result.seconds = time.perf_counter() - started
    return result


def read_usage(stream: bytes) -> int:
    """The completion tokens that the end of a stream of events tells."""
    for line in reversed(stream.splitlines()):
        if b'"usage"' in line and line.startswith(b"data:"):
            usage = json.loads(line.removeprefix(b"data:"))["usage"]
            if usage:
                return int(usage["completion_tokens"])
    raise RuntimeError(f"an answer without a usage: {stream[-400:]!r}")


async def _send_request(
    client: httpx2.AsyncClient, url: str, body: dict[str, Any], result: LoadResult
) -> None:
    last = time.perf_counter()
    first = True
    async with client.stream("POST", url, json=body) as response:
        response.raise_for_status()
        async for chunk in response.aiter_raw():
            if b'"error"' in chunk:
                raise RuntimeError(chunk.decode())
            token_count = chunk.count(b'"text":')
            if not token_count:
                continue
            result.tokens += token_count
            now = time.perf_counter()
            if first:
                result.first.append(now - last)
                first = False
            else:
                result.between.append(now - last)
            last = now


@contextmanager
def run_teacher(**environment: str) -> Iterator[str]:
    """Run a teacher process; yields its URL once the model is loaded."""
    port = find_free_port()
    settings = {"PORT": str(port), "QCRD_LOG_LEVEL": "WARNING", **environment}
    with run_process([sys.executable, "-m", "services.teacher.main"], settings, port) as url:
        yield url


@contextmanager
def run_fake_upstream() -> Iterator[str]:
    """Run an OpenAI-compatible server of `UPSTREAM_RATE` tokens per second in its own process."""
    port = find_free_port()
    command = [sys.executable, "-m", "benchmarks.teacher.load", str(port)]
    with run_process(command, {}, port) as url:
        yield url


@contextmanager
def run_process(command: list[str], environment: dict[str, str], port: int) -> Iterator[str]:
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(command, env={**os.environ, **environment})
    try:
        deadline = time.monotonic() + 120
        while not _is_healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} did not start")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _is_healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


STYLES = {"/v1/completions": "text", "/v1/chat/completions": "chat"}


async def fake_upstream_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The fake upstream's ASGI app, paced over all its open streams, or each of them by itself."""
    if scope["type"] != "http":
        return
    style = STYLES.get(scope["path"])
    if style is None:
        listed = [{"id": name, "object": "model"} for name in ("fake", PACED)]
        known = scope["path"] in ("/health", "/v1/models")
        models = json.dumps({"object": "list", "data": listed}).encode()
        await _send_response(send, 200 if known else 404, [models])
        return
    request = json.loads((await receive())["body"])
    tokens = request["max_tokens"]
    pace = _pace_each(tokens) if request["model"] == PACED else _pace_all(tokens)
    await send(_response_start(200, b"text/event-stream"))
    async for index in pace:
        for choice in range(request.get("n") or 1):
            chunk = _make_chunk(style, choice, "length" if index == tokens - 1 else None)
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    usage = _make_usage(request, tokens)
    await send({"type": "http.response.body", "body": usage + b"data: [DONE]\n\n"})


_next_slot = [0.0]


async def _pace_all(count: int) -> AsyncIterator[int]:
    """Each token takes the next of `UPSTREAM_RATE` slots per second, shared by all streams."""
    for index in range(count):
        now = time.monotonic()
        _next_slot[0] = max(_next_slot[0], now) + 1 / UPSTREAM_RATE
        # An event loop's timers are no finer than a millisecond; shorter waits add up in
        # `_next_slot`.
        await asyncio.sleep(wait if (wait := _next_slot[0] - now) > 0.001 else 0)
        yield index


async def _pace_each(count: int) -> AsyncIterator[int]:
    """A token late is not a token lost: the next ones come at their own times."""
    started = time.monotonic()
    for index in range(count):
        await asyncio.sleep(max(0.0, started + (index + 1) / STREAM_RATE - time.monotonic()))
        yield index


def _make_chunk(style: str, index: int, reason: str | None) -> bytes:
    said: dict[str, Any] = {"text": " word"} if style == "text" else {"delta": {"content": " word"}}
    choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
    return _encode({"id": "c-0", "object": style, "model": "fake", "choices": [choice]})


def _make_usage(request: dict[str, Any], tokens: int) -> bytes:
    """Nothing unless it is asked for, as OpenAI has it."""
    if not (request.get("stream_options") or {}).get("include_usage"):
        return b""
    written = tokens * (request.get("n") or 1)
    usage = {"prompt_tokens": 20, "completion_tokens": written, "total_tokens": 20 + written}
    return _encode({"id": "c-0", "model": "fake", "choices": [], "usage": usage})


def _encode(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()


def _response_start(status: int, kind: bytes) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}


async def _send_response(send: Any, status: int, parts: list[bytes]) -> None:
    await send(_response_start(status, b"application/json"))
    await send({"type": "http.response.body", "body": b"".join(parts)})


if __name__ == "__main__":
    import uvicorn

    random.seed(SEED)
    uvicorn.run(fake_upstream_app, port=int(sys.argv[1]), log_level="warning")
