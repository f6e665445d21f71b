"""Copies of a model on transformers that are processes: what they do, and how they end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.engines.transformers.engine import TransformersEngine
from services.teacher.errors import GenerationFailed
from tests.contract.teacher.test_engines import save
from tests.contract.teacher.test_local import ids, made, prompt, run
from tests.contract.teacher.test_wire import start, wait_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"), "llama")


def test_a_process_scores_prompts_and_drops_what_nobody_reads(folder: Path) -> None:
    """One of the two workers is busy, so that the other one, a process, is asked."""

    async def work(engine: TransformersEngine) -> list[float | None]:
        busy = engine.submit(ValidGenerateRequest("busy", prompt(9, 1), 80))
        await anext(busy)
        left = engine.submit(ValidGenerateRequest("left", prompt(9, 2), 80))
        await anext(left)
        await left.aclose()
        scored = await engine.score_prompt(ValidGenerateRequest("scored", prompt(30, 3), 1))
        await wait_for_size(engine, 1)
        await busy.aclose()
        await wait_for_size(engine, 0)
        return [token.logprob for token in scored]

    async def wait_for_size(engine: TransformersEngine, size: int) -> None:
        while engine.batch_metrics.registry.get_sample_value("tgi_batch_current_size") != size:
            await asyncio.sleep(0.01)

    async def score(engine: TransformersEngine) -> list[float | None]:
        scored = await engine.score_prompt(ValidGenerateRequest("", prompt(30, 3), 1))
        return [token.logprob for token in scored]

    expected = run(made(folder), score)
    got = run(made(folder, teacher_replicas=2), lambda e: asyncio.wait_for(work(e), 60))
    assert got[0] is None
    assert got[1:] == pytest.approx(expected[1:], abs=1e-4)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_client_that_leaves_while_its_score_waits_stops_nothing(
    folder: Path, replicas: int
) -> None:
    async def work(engine: TransformersEngine) -> list[int]:
        running = [
            engine.submit(ValidGenerateRequest(f"busy {n}", prompt(9, n), 80))
            for n in range(replicas)
        ]
        for one in running:
            await anext(one)
        requests = (ValidGenerateRequest("left", prompt(30, n), 1) for n in range(8))
        waiting = [asyncio.create_task(engine.score_prompt(request)) for request in requests]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        rest = await asyncio.gather(*(ids(engine, request) for request in make_requests()))
        for one in running:
            await one.aclose()
        return rest[0]

    def make_requests() -> list[ValidGenerateRequest]:
        return [ValidGenerateRequest(f"late {n}", prompt(9, 1), 9) for n in range(2 * replicas)]

    expected = run(made(folder), lambda e: ids(e, ValidGenerateRequest("", prompt(9, 1), 9)))
    got = run(made(folder, teacher_replicas=replicas), lambda e: asyncio.wait_for(work(e), 60))
    assert got == expected


def test_a_copy_that_dies_fails_its_requests_and_the_engine(folder: Path) -> None:
    failures: list[str] = []

    async def work(engine: TransformersEngine) -> list[int]:
        kept = engine.submit(ValidGenerateRequest("kept", prompt(9, 1), 40))
        first = await anext(kept)
        lost = engine.submit(ValidGenerateRequest("lost", prompt(9, 2), 80))
        await anext(lost)
        (child,) = multiprocessing.active_children()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        with pytest.raises(GenerationFailed, match=r"has died \(exit code -9\)"):
            async for _ in lost:
                pass
        late = (ids(engine, ValidGenerateRequest(f"late {n}", prompt(9, n), 9)) for n in range(8))
        ends = await asyncio.gather(*late, return_exceptions=True)
        assert any("has died" in str(end) for end in ends if isinstance(end, GenerationFailed))
        return [first.id, *[token.id async for token in kept]]

    expected = run(made(folder), lambda e: ids(e, ValidGenerateRequest("", prompt(9, 1), 40)))
    engine = made(folder, teacher_replicas=2)
    engine.on_failure = failures.append
    assert run(engine, lambda e: asyncio.wait_for(work(e), 60)) == expected
    assert failures == ["a copy of the model has died (exit code -9)"]


# --- behind a server ------------------------------------------------------------------------------


@contextmanager
def serving_copies(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int, list[int]]]:
    """A server with three copies, its port, and the two processes that it has forked. It was asked
    while it loaded, by a client that keeps its connection."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    process = start(
        MODEL_ID=str(folder), PORT=str(port), TEACHER_REPLICAS="3", MAX_TOTAL_TOKENS="64"
    )

    def get_status() -> int:
        try:
            return httpx2.get(f"http://127.0.0.1:{port}/health").status_code
        except httpx2.ConnectError:
            return 0

    try:
        wait_for(lambda: get_status() != 0, 60)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as early:
            early.sendall(b"GET /health HTTP/1.1\r\nHost: teacher\r\n\r\n")
            assert early.recv(4096).startswith(b"HTTP/1.1 503"), "it has loaded already"
            wait_for(lambda: get_status() == 200, 60)
            while early.recv(4096):
                pass  # to its end, which does not come while a copy holds the connection too
        yield process, port, list_children(process.pid)
    finally:
        process.kill()
        process.communicate()


def list_children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def test_a_server_ends_with_a_copy_and_says_why(folder: Path) -> None:
    with serving_copies(folder) as (process, _, children):
        assert len(children) == 2
        os.kill(children[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.endswith("teacher: a copy of the model has died (exit code -9)\n")
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 30)


def test_copies_end_with_a_server_that_is_killed(folder: Path) -> None:
    with serving_copies(folder) as (process, port, children):
        process.kill()
        process.wait()
        with socket.create_server(("127.0.0.1", port)):
            pass
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), 30)
