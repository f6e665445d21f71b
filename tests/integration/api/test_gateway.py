"""The gateway as processes on real servers, driven by the stock `openai` client.

The gateway and its Celery worker are the commands that the containers run; Valkey and SeaweedFS
are real; only the teacher is scripted.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
import pytest
from openai.types import FileObject
from openai.types.fine_tuning import FineTuningJob
from redis import Redis

from qcrd.records.rationales import RationaleItem, RationaleManifest
from qcrd.runtime import keys
from qcrd.runtime.jobs.stores.redis_store import RedisJobStore
from qcrd.runtime.redis.connection import connect_redis
from qcrd.runtime.settings import RedisSettings, StoreSettings
from qcrd.runtime.storage.json_lines import read_lines
from qcrd.runtime.storage.s3 import S3Store
from qcrd.runtime.storage.store import read_object, read_record
from tests.bare_base import save_bare_base
from tests.conftest import free_ports
from tests.fakes.scripted_teacher import ScriptedTeacher
from tests.secrets import dumped, found_in

T = TypeVar("T")

DATABASE = 900
"""Of the session's Valkey, far from those that single tests count up to."""
KEY = "sk-of-this-test"
TEACHER_KEY = "sk-of-the-teacher-of-this-test"
WEBHOOK_SECRET = "whsec_" + base64.b64encode(b"a secret of this test that is long").decode()
CELERY = ("-A", "services.api.worker", "worker", "-Q", "assemble", "-c", "4", "--pool=threads")


@dataclass
class Stack:
    url: str
    teacher: ScriptedTeacher
    store: S3Store
    environment: dict[str, str]
    gateway: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes]
    log: Path

    def redis(self) -> Redis:
        return connect_redis(RedisSettings(url=self.environment["QCRD_REDIS_URL"]))

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)

    def upload(self, rows: list[dict[str, Any]], name: str = "train.jsonl") -> FileObject:
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        return self.client().files.create(file=(name, io.BytesIO(data)), purpose="fine-tune")

    def create(self, training: str, kind: str = "qcrd", **body: Any) -> FineTuningJob:
        method: Any = {"type": kind, kind: {"task": {"answer": "number"}, **body}}
        return self.client().fine_tuning.jobs.create(
            model="tiny", training_file=training, method=method
        )


@pytest.fixture(scope="module")
def stack(
    redis_url: str, s3_settings: StoreSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("gateway")
    save_bare_base(folder / "models/tiny")
    teacher = ScriptedTeacher(adds, delay=0.02)
    settings = s3_settings.model_copy(update={"bucket": "test-gateway"})
    port = free_ports(1)[0]
    environment = {
        **os.environ,
        "QCRD_REDIS_URL": f"{redis_url.rsplit('/', 1)[0]}/{DATABASE}",
        "QCRD_S3_ENDPOINT": settings.endpoint,
        "QCRD_S3_ACCESS_KEY": settings.access_key,
        "QCRD_S3_SECRET_KEY": settings.secret_key.get_secret_value(),
        "QCRD_S3_BUCKET": settings.bucket,
        "QCRD_MODELS_DIR": str(folder / "models"),
        "QCRD_API_PORT": str(port),
        "QCRD_API_KEYS": KEY,
        "QCRD_TEACHERS": json.dumps(
            {"default": {"url": teacher.url, "api_key": TEACHER_KEY, "concurrency": 4}}
        ),
        "QCRD_WEBHOOK_HOSTS": "http://127.0.0.1:9",
        "QCRD_WEBHOOK_SECRET": WEBHOOK_SECRET,
    }
    log = folder / "log"
    with log.open("wb") as out:
        gateway = started([sys.executable, "-m", "services.api.main"], environment, out)
        worker = started([sys.executable, "-m", "celery", *CELERY], environment, out)
    url = f"http://127.0.0.1:{port}"
    made = Stack(url, teacher, S3Store(settings), environment, gateway, worker, log)
    try:
        until(lambda: answers(f"{url}/ready"), gateway)
        yield made
    finally:
        for process in (made.gateway, made.worker):
            process.send_signal(signal.SIGTERM)
        codes = [process.wait(30) for process in (made.gateway, made.worker)]
        teacher.close()
    # uvicorn ends by the signal that it was stopped with.
    assert codes == [-signal.SIGTERM, 0], log.read_text()[-3000:]


def started(command: list[str], environment: dict[str, str], out: Any) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[3]
    return subprocess.Popen(command, env=environment, cwd=root, stdout=out, stderr=out)


def answers(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == 200
    except httpx2.TransportError:
        return False


def until(
    look: Callable[[], T], process: subprocess.Popen[bytes] | None = None, seconds: float = 30
) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        assert process is None or process.poll() is None, "it exited"
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def adds(prompt: str, seed: int) -> str:
    number = int(prompt.rsplit("What is ", 1)[1].split(" ")[0])
    return f" One more than {number}.\n<Answer>: {number + 1 + (seed % 3 == 0)}"


def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {i} + 1?", "label": str(i + 1)} for i in range(start, start + count)
    ]


def assembled(stack: Stack, job_id: str) -> FineTuningJob | None:
    job = stack.client().fine_tuning.jobs.retrieve(job_id)
    assert job.status in ("queued", "running"), job
    return job if getattr(job, "stage", None) == "training" else None


def test_the_stock_client_uploads_creates_follows_and_cancels(stack: Stack) -> None:
    client = stack.client()
    training, test = stack.upload(sums(6)), stack.upload(sums(3, 50), "test.jsonl")
    assert client.files.retrieve(training.id) == training
    assert {f.id for f in client.files.list()} >= {training.id, test.id}
    assert client.files.content(training.id).read().count(b"\n") == 6
    method: Any = {"type": "qcrd", "qcrd": {"task": {"answer": "number"}}}
    job = client.fine_tuning.jobs.create(
        model="tiny",
        training_file=training.id,
        method=method,
        seed=7,
        suffix="sums",
        extra_body={"test_file": test.id},
    )
    assert (job.object, job.seed, job.status) == ("fine_tuning.job", 7, "queued")
    after = until(lambda: assembled(stack, job.id), stack.worker)
    assert (after.model_extra or {})["usage"]["teacher_completion_tokens"] == 33 * 7
    assert next(iter(client.fine_tuning.jobs.list(limit=1))).id == job.id
    cancelled = client.fine_tuning.jobs.cancel(job.id)
    assert cancelled.status == "cancelled"
    # Three pages: the client goes on by itself, towards older events.
    messages = [e.message for e in client.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert messages[-1] == "job created"
    assert messages[0] == "The job was cancelled"
    assert len(messages) == len(set(messages)) >= 4
    assert [model.id for model in client.models.list()] == []


def test_a_set_is_in_the_store_and_costs_nothing_the_second_time(stack: Stack) -> None:
    training = stack.upload(sums(5, start=100))
    first_id = stack.create(training.id).id
    until(lambda: assembled(stack, first_id), stack.worker)
    answered = stack.teacher.answered
    second_id = stack.create(training.id).id
    second = until(lambda: assembled(stack, second_id), stack.worker)
    assert stack.teacher.answered == answered
    shown = second.model_extra or {}
    usage = shown["usage"]
    assert (usage["teacher_prompt_tokens"], usage["teacher_completion_tokens"]) == (0, 0)
    key = keys.rationale_manifest_key(shown["rationale_set"])
    manifest = read_record(stack.store, key, RationaleManifest)
    assert (manifest.counts.questions, manifest.counts.outputs) == (5, 25)
    assert manifest.counts.reused == 25
    items = list(read_lines(stack.store, manifest.shards[0], RationaleItem))
    assert [item.question.text for item in items] == [row["question"] for row in sums(5, 100)]


def test_a_worker_stopped_in_the_middle_hands_over_and_pays_nothing_twice(stack: Stack) -> None:
    """SIGTERM gives the job back at once; the ledger has what was answered."""
    stack.teacher.delay = 0.2
    answered = stack.teacher.answered
    job_id = stack.create(stack.upload(sums(12, start=200)).id).id
    until(lambda: stack.teacher.answered >= answered + 10, stack.worker)
    stack.worker.send_signal(signal.SIGTERM)
    stack.worker.wait(30)
    stack.teacher.delay = 0.0
    with stack.log.open("ab") as out:
        stack.worker = started([sys.executable, "-m", "celery", *CELERY], stack.environment, out)
    until(lambda: assembled(stack, job_id), stack.worker)
    # Those in flight at the end, at most four, were answered in vain.
    assert stack.teacher.answered - answered <= 60 + 4


def test_a_job_that_waits_long_holds_up_none_but_those_that_ask_the_same(stack: Stack) -> None:
    client, training = stack.client(), stack.upload(sums(5, start=600))
    stack.teacher.delay, answered = 60.0, stack.teacher.answered
    slow = stack.create(training.id).id
    until(lambda: stack.teacher.flying == 4, stack.worker)
    stack.teacher.delay = 0.0
    other = stack.create(stack.upload(sums(5, start=700)).id).id
    same = stack.create(training.id).id
    until(lambda: assembled(stack, other), stack.worker)
    until(lambda: (client.fine_tuning.jobs.retrieve(same).model_extra or {}).get("waiting"))
    waiting = client.fine_tuning.jobs.retrieve(same)
    assert waiting.status == "queued"
    assert slow in (waiting.model_extra or {})["waiting"]
    assert stack.teacher.answered - answered == 25  # all of them the other's
    client.fine_tuning.jobs.cancel(slow)
    until(lambda: assembled(stack, same), stack.worker)
    assert stack.teacher.answered - answered == 50


def test_errors_reach_the_stock_client_with_their_fields(stack: Stack) -> None:
    client = stack.client()
    with pytest.raises(openai.BadRequestError) as bad_file:
        client.files.create(file=("x.jsonl", b'{"question": 1}'), purpose="fine-tune")
    assert "line 1" in bad_file.value.message
    training = stack.upload(sums(5, start=100))
    with pytest.raises(openai.BadRequestError) as bad_spec:
        stack.create(training.id, rationales={"n": 0})
    assert bad_spec.value.param == "method.qcrd.rationales.n"
    assert bad_spec.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.fine_tuning.jobs.retrieve(f"ftjob-{'0' * 24}")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{stack.url}/v1", api_key="sk-other").models.list()


def test_events_stream_until_the_end_of_the_job(stack: Stack) -> None:
    job_id = stack.create(stack.upload(sums(4, start=300)).id).id
    until(lambda: assembled(stack, job_id), stack.worker)
    stack.client().fine_tuning.jobs.cancel(job_id)
    url = f"{stack.url}/v1/fine_tuning/jobs/{job_id}/events?stream=true"
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx2.stream("GET", url, headers=headers, timeout=60) as answer:
        data = [line[6:] for line in answer.iter_lines() if line.startswith("data: ")]
    messages = [json.loads(line)["message"] for line in data]
    assert (messages[0], messages[-1]) == ("job created", "The job was cancelled")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"QCRD_API_HOST": "0.0.0.0", "QCRD_API_KEYS": ""}, "set QCRD_API_KEYS"),
        ({"QCRD_TEACHERS": '{"t": {"url": "ftp://x"}}'}, "QCRD_TEACHERS.t.url: "),
        ({}, "Address already in use"),
    ],
)
def test_a_gateway_that_cannot_serve_says_why_and_exits(
    stack: Stack, change: dict[str, str], told: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.api.main"],
        env={**stack.environment, **change},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_job_is_paused_and_resumed_by_the_stock_client(stack: Stack) -> None:
    stack.teacher.delay = 0.2
    client = stack.client()
    job_id = stack.create(stack.upload(sums(12, start=400)).id).id
    until(lambda: client.fine_tuning.jobs.retrieve(job_id).status == "running", stack.worker)
    paused = client.fine_tuning.jobs.pause(job_id)
    assert paused.status == "paused"
    until(lambda: not RedisJobStore(stack.redis()).get(job_id).lease.owner, stack.worker)
    answered = stack.teacher.answered
    stack.teacher.delay = 0.0
    assert list(client.fine_tuning.jobs.checkpoints.list(job_id)) == []
    resumed = client.fine_tuning.jobs.resume(job_id)
    assert resumed.status == "queued"
    until(lambda: assembled(stack, job_id), stack.worker)
    assert stack.teacher.answered - answered < 60
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job_id)]
    assert {"paused: key key-1 asked for it", "resumed by key key-1"} <= set(messages)


def test_the_worker_tells_the_gateway_how_the_teacher_is(stack: Stack) -> None:
    def look() -> object:
        return httpx2.get(f"{stack.url}/ready").json().get("teachers")

    assert until(look, stack.worker) == {"default": "ok"}


def test_no_secret_is_in_any_answer_log_record_or_event(stack: Stack) -> None:
    """After good requests and bad ones that carry secrets where none belong."""
    secrets = [KEY, TEACHER_KEY, WEBHOOK_SECRET, WEBHOOK_SECRET.removeprefix("whsec_")]
    secrets.append(stack.environment["QCRD_S3_SECRET_KEY"])
    training = stack.upload(sums(4, start=500)).id
    job_id = stack.create(training).id
    headers = {"Authorization": f"Bearer {KEY}"}
    bad: list[Any] = [
        {"model": "tiny", "training_file": training, "webhook": "http://127.0.0.1:9/x"},
        {"model": "none", "training_file": training},
        {"model": "tiny", "training_file": training, "method": {"type": "qcrd", "qcrd": 1}},
    ]
    with httpx2.Client(base_url=stack.url, headers=headers, timeout=30) as client:
        answers_ = [client.post("/v1/fine_tuning/jobs", json=body) for body in bad]
        answers_ += [client.get(f"/v1/fine_tuning/jobs/{job_id}"), client.get("/metrics")]
        answers_ += [client.get("/openapi.json"), client.get("/ready"), client.get("/v1/nothing")]
        answers_.append(client.get("/v1/models", headers={"Authorization": f"Basic {KEY}"}))
    until(lambda: assembled(stack, job_id), stack.worker)
    stack.client().fine_tuning.jobs.cancel(job_id)
    places = {str(answer.request.url): answer.content for answer in answers_}
    places |= {f"{a.request.url} headers": str(a.headers).encode() for a in answers_}
    places |= {key: read_object(stack.store, key) for key in stack.store.list("")}
    places |= dumped(stack.redis())
    places["log"] = stack.log.read_bytes()
    assert len(places) > 30
    for place, content in places.items():
        assert found_in(content, secrets) == [], place
