"""Two thousand requests, good, bad and leaving, and then everything is back where it was."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import httpx2
import psutil

from tests.conftest import needed
from tests.contract.teacher.test_wire import wait_for

PERMITS = 16
KINDS = {
    "good": 30, "stream": 20, "leave": 15, "leave early": 5, "malformed": 6, "wrong type": 6,
    "refused": 6, "large": 2, "million": 2, "chat": 4, "completions": 4,
}  # fmt: skip
ALLOWED = {
    "malformed": {400}, "wrong type": {422}, "refused": {422, 429}, "large": {413},
    "million": {413}, "stream": {200},
}  # fmt: skip


@contextmanager
def teacher(*arguments: str, **environment: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server process of its own: `arguments` name what runs."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    given = {"PORT": str(port), "MAX_CONCURRENT_REQUESTS": str(PERMITS), **environment}
    process = subprocess.Popen([sys.executable, *arguments], env={**os.environ, **given})
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: healthy(url), seconds=60)
        yield url, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def healthy(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/health").status_code == 200
    except httpx2.TransportError:
        return False


async def one(client: httpx2.AsyncClient, kind: str, rng: Random) -> int:
    """The status of one request; 0 for one whose client left."""
    words = f"question {rng.random()}"
    parameters: dict[str, Any] = {"max_new_tokens": rng.randint(1, 12)}
    body: dict[str, Any] = {"inputs": words, "parameters": parameters}
    if kind in ("leave", "leave early"):
        parameters["max_new_tokens"] = 40
        try:
            async with client.stream("POST", "/generate_stream", json=body) as reply:
                if kind == "leave":
                    await anext(reply.aiter_raw())
        except httpx2.TransportError:
            pass
        return 0
    if kind == "malformed":
        headers = {"content-type": "application/json"}
        return (
            await client.post("/generate", content=b'{"inputs": "a', headers=headers)
        ).status_code
    path = {"stream": "/generate_stream"}.get(kind, "/generate")
    if kind == "wrong type":
        body = {"inputs": 7}
    elif kind == "refused":
        parameters["temperature"] = -1.0
    elif kind == "large":
        body["inputs"] = "x" * 3_000_000
    elif kind == "million":
        body["inputs"] = "word " * 1_000_000
    elif kind == "chat":
        messages = [{"role": "user", "content": words}]
        path, body = "/v1/chat/completions", {"messages": messages, "max_tokens": 4}
    elif kind == "completions":
        path, body = "/v1/completions", {"prompt": words, "max_tokens": 4}
    try:
        return (await client.post(path, json=body)).status_code
    except httpx2.TransportError:
        # A body that is refused by its length may meet a connection that is being closed.
        if kind not in ("large", "million"):
            raise
        return 413


async def flood(url: str, count: int, seed: int) -> Counter[tuple[str, int]]:
    rng = Random(seed)
    kinds = rng.choices(list(KINDS), weights=list(KINDS.values()), k=count)
    gate, seen = asyncio.Semaphore(3 * PERMITS), Counter[tuple[str, int]]()
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def guarded(kind: str) -> None:
            async with gate:
                seen[kind, await one(client, kind, rng)] += 1

        await asyncio.gather(*(guarded(kind) for kind in kinds))
    return seen


def settled(url: str) -> bool:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return {"tgi_batch_current_size 0.0", "tgi_queue_size 0.0"} <= set(lines)


def back_to_rest(url: str, process: psutil.Process, count: int) -> None:
    """Two floods: the first one may fill caches, the second must leave nothing behind."""
    for seed in (1, 2):
        if seed == 2:
            memory = process.memory_info().rss
        for (kind, status), _ in asyncio.run(flood(url, count // 2, seed)).items():
            allowed = ALLOWED.get(kind, {0} if kind.startswith("leave") else {200, 429})
            assert status in allowed, (kind, status)
        wait_for(lambda: settled(url), seconds=60)
    assert process.memory_info().rss - memory < 64 * 2**20
    # Every permit is free: as many requests at once as there are permits, none refused.
    assert asyncio.run(full_house(url)) == [200] * PERMITS
    assert len(process.connections("inet")) < 4 + PERMITS


async def full_house(url: str) -> list[int]:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        body = {"inputs": "all at once", "parameters": {"max_new_tokens": 6}}
        asked = (client.post("/generate", json=body) for _ in range(PERMITS))
        return [reply.status_code for reply in await asyncio.gather(*asked)]


def test_two_thousand_requests_leave_nothing_behind() -> None:
    with teacher("-m", "tests.contract.teacher.scripted_server") as (url, process):
        back_to_rest(url, process, 2_000)


def test_a_flood_of_llama_cpp_leaves_nothing_behind() -> None:
    needed("xllamacpp")
    environment = {"MODEL_ID": "smollm2", "MAX_TOTAL_TOKENS": "64", "TEACHER_SLOTS": "8"}
    with teacher("-m", "services.teacher.main", **environment) as (url, process):
        back_to_rest(url, process, 160)
