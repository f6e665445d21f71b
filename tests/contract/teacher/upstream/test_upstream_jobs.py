"""Jobs whose teacher stands before a server that says little, or is away for a while."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from qcrd.records.job import Job, JobStatus, Stage
from services.api.settings import TeacherConfig
from services.teacher.engines.upstream.engine import UpstreamEngine
from tests.contract.teacher.test_wire import serving
from tests.contract.teacher.upstream.test_upstream import chunk
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.unit.api.assembling.assembling_bench import QUICK, Bench, adds


class Silent:
    """An OpenAI-compatible server that tells no usage and ends at a stop string without it."""

    def __init__(self) -> None:
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = self.door.getsockname()[1]
        self.calls: list[dict[str, Any]] = []
        self.answered = self.breaks = 0
        self.start(self.door)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        async def models() -> dict[str, Any]:
            return {"object": "list", "data": []}

        @app.post("/v1/completions")
        async def complete(request: Request) -> Response:
            body = await request.json()
            self.calls.append(body)
            if "What is 3 " in body["prompt"].rsplit("Q:", 1)[-1]:
                error = {"message": "no", "code": "content_filter"}
                return JSONResponse({"error": error}, 400)
            if self.breaks:
                self.breaks -= 1
                return StreamingResponse(self.break_off(), media_type="text/event-stream")
            self.answered += 1
            text = adds(body["prompt"], 1)
            lines = [chunk({"text": text}), chunk({"text": "", "finish_reason": "stop"})]
            return StreamingResponse(
                iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream"
            )

        return app

    async def break_off(self) -> AsyncIterator[str]:
        yield chunk({"text": " One"})
        raise RuntimeError("the connection breaks here")

    def start(self, door: socket.socket | None = None) -> None:
        self.door = door or socket.create_server(("127.0.0.1", self.port))
        config = uvicorn.Config(self.app(), log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self.door]}, daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self.door.close()


@pytest.fixture
def far() -> Iterator[Silent]:
    silent = Silent()
    yield silent
    silent.stop()


@contextmanager
def worker(far: Silent) -> Iterator[Bench]:
    """A gateway's worker whose teacher stands before `far`."""
    engine = UpstreamEngine(
        f"http://127.0.0.1:{far.port}",
        "m",
        api_key=None,
        max_total_tokens=None,
        max_input_tokens=None,
        max_attempts=2,
    )
    unused = ScriptedTeacher(adds)
    with serving(engine) as url:
        here = Bench(unused)
        here.teachers = {"default": TeacherConfig(url=url, concurrency=4)}
        yield here
    unused.close()


def rows(count: int) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} + 1?", "label": str(i + 1)} for i in range(count)]


def test_a_job_gets_by_without_usage_and_without_a_filtered_line(far: Silent) -> None:
    with worker(far) as here:
        job = here.run(here.job(here.file(rows(6)), rationales={"n": 2}))
        assert (job.status, job.stage, job.failure) == (JobStatus.RUNNING, Stage.TRAINING, None)
        assert here.manifest(job).counts.outputs == 10
        assert here.manifest(job).counts.refused == 1
    assert far.calls[0]["stop"] == ["\n\n"]
    assert far.answered == 10
    assert job.usage.estimated
    written = sum(-(-len(adds(call["prompt"], 1)) // 3) for call in far.calls if _is_answered(call))
    assert job.usage.teacher_completion_tokens == written


def run_on(here: Bench, job: Job) -> Job:
    """Attempt by attempt, while it only waits."""
    while (job.status, job.stage) == (JobStatus.RUNNING, Stage.ASSEMBLING):
        job = here.run(job, QUICK)
    return job


def _is_answered(call: dict[str, Any]) -> bool:
    return "What is 3 " not in json.dumps(call)


def test_a_dead_upstream_is_waited_for_like_a_dead_teacher(far: Silent) -> None:
    """It is away for longer than the teacher tries and the worker repeats one request."""
    with worker(far) as here:
        job = here.job(here.file(rows(3)), rationales={"n": 2})
        far.stop()
        seen: list[str] = []

        def come_back() -> None:
            while not (waiting := here.jobs.get(job.id).waiting):
                time.sleep(0.02)
            seen.append(waiting)
            far.start()

        other = threading.Thread(target=come_back)
        other.start()
        after = here.run(job, QUICK)
        other.join()
        after = run_on(here, after)
        assert after.stage is Stage.TRAINING
        assert after.waiting is None
    assert "its upstream does not answer" in seen[0]
    assert seen[0].endswith(" UTC")
    assert far.answered == 6


def test_an_upstream_that_breaks_off_again_and_again_fails_no_job(far: Silent) -> None:
    """The same request five times, which is once more than an engine may fail on one."""
    far.breaks = 5
    with worker(far) as here:
        job = run_on(here, here.run(here.job(here.file(rows(1)), rationales={"n": 1})))
        assert (job.stage, job.failure) == (Stage.TRAINING, None)
    assert far.answered == 1
