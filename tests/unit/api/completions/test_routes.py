"""The gateway in front of a scripted server of students; real sockets on both sides."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from qcrd.records.job import Job, JobStatus, PublishedModel
from qcrd.records.specs.spec import JobSpec, MethodSpec
from qcrd.runtime import keys
from qcrd.runtime.jobs.queue import MemoryJobQueue
from qcrd.runtime.jobs.stores.memory_store import MemoryJobStore
from qcrd.runtime.redis.memory_event_log import MemoryEventLog
from qcrd.runtime.settings import ModelSettings
from qcrd.runtime.storage.store import MemoryStore, write_record
from services.api.app import create_app
from services.api.dependencies import GatewaySettings
from services.api.settings import ApiSettings, FileSettings, StudentSettings, TeacherSettings
from tests import serving
from tests.conftest import free_ports
from tests.fakes.scripted_students import GOOD, Connection, ScriptedStudents, good

ABSENT = f"model-{'0' * 24}"
PATIENCE = 30.0
"""Seconds that the gateway waits for a silent server, longer than any test here but one takes."""


@dataclass
class Gateway:
    url: str
    store: MemoryStore
    jobs: MemoryJobStore
    students: ScriptedStudents
    model: str

    def chat(self, **changes: Any) -> httpx2.Response:
        return httpx2.post(f"{self.url}/v1/chat/completions", json=self.body(**changes))

    def body(self, **changes: Any) -> dict[str, Any]:
        messages = [{"role": "user", "content": "what is a trout ?"}]
        return {"model": self.model, "messages": messages, **changes}


def publish(store: MemoryStore) -> str:
    model = PublishedModel(
        id=keys.new_id("model"),
        job_id=keys.new_id("ftjob"),
        created_at=5.0,
        base="tiny",
        files=("config.json",),
    )
    store.put(f"{keys.model_prefix(model.id)}config.json", b"{}")
    write_record(store, keys.model_manifest_key(model.id), model)
    return model.id


def app_of(
    store: MemoryStore, jobs: MemoryJobStore, models: Path, url: str, timeout: float = PATIENCE
) -> Any:
    settings = GatewaySettings(
        ApiSettings(),
        TeacherSettings(),
        FileSettings(),
        ModelSettings(models_dir=models),
        students=StudentSettings(url=url, timeout=timeout),
    )
    return create_app(store, jobs, MemoryEventLog(), MemoryJobQueue(), settings)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    store, jobs, students = MemoryStore(), MemoryJobStore(), ScriptedStudents()
    with serving.app(app_of(store, jobs, tmp_path, students.url)) as url:
        yield Gateway(url, store, jobs, students, publish(store))
    students.close()


def refused(answer: httpx2.Response, status: int, code: str, param: str | None = None) -> str:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert answer.headers["x-request-id"]
    return str(error["message"])


def test_a_request_and_its_answer_pass_through(gateway: Gateway) -> None:
    asked = gateway.body(temperature=0.5, n=2, explain=True, stop="\n", user="me", store=True)
    headers = {"x-request-id": "mine-1"}
    answer = httpx2.post(f"{gateway.url}/v1/chat/completions", json=asked, headers=headers)
    assert answer.json() == GOOD
    (seen,) = gateway.students.asked
    assert seen.path == "/v1/chat/completions"
    assert seen.headers["x-request-id"] == answer.headers["x-request-id"] == "mine-1"
    # What is not known here is not passed on.
    assert seen.body == {k: v for k, v in asked.items() if k not in ("user", "store")}
    body = {"model": gateway.model, "prompt": ["a", "b"], "max_tokens": 3}
    assert httpx2.post(f"{gateway.url}/v1/completions", json=body).json() == GOOD
    assert (gateway.students.asked[1].path, gateway.students.asked[1].body) == (
        "/v1/completions",
        body,
    )


def test_a_stream_is_not_held_back(gateway: Gateway) -> None:
    """The second piece is sent only after the client has read the first."""
    read = threading.Event()

    async def script(connection: Connection) -> None:
        connection.begin_stream()
        connection.piece(b'data: {"one": 1}\n\n')
        await asyncio.to_thread(read.wait, 10)
        connection.piece(b"data: [DONE]\n\n")
        connection.piece(b"")

    gateway.students.script = script
    with httpx2.stream(
        "POST", f"{gateway.url}/v1/chat/completions", json=gateway.body(stream=True)
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        assert next(lines) == 'data: {"one": 1}'
        read.set()
        assert [line for line in lines if line] == ["data: [DONE]"]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_leaves_takes_its_request_along(gateway: Gateway, streaming: bool) -> None:
    asked, left = threading.Event(), threading.Event()

    async def script(connection: Connection) -> None:
        if streaming:
            connection.begin_stream()
            connection.piece(b": hello\n\n")
        asked.set()
        await connection.hangs_up()
        left.set()

    gateway.students.script = script
    body = json.dumps(gateway.body(stream=streaming))
    host, port = gateway.url.removeprefix("http://").split(":")
    client = HTTPConnection(host, int(port))
    client.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    assert asked.wait(PATIENCE / 3)
    if streaming:
        assert client.getresponse().read1() == b": hello\n\n"
    client.close()
    assert left.wait(PATIENCE / 3)


def test_a_stream_that_breaks_off_ends_in_an_error(gateway: Gateway) -> None:
    async def script(connection: Connection) -> None:
        connection.begin_stream()
        connection.piece(b'data: {"choices": []}\n\n')
        await connection.sent()
        connection.cut()

    gateway.students.script = script
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIError, match="broke off") as broken:
        list(client.chat.completions.create(**gateway.body(stream=True)))
    assert broken.value.code == "students_unavailable"


def test_a_server_that_is_away_or_silent_is_503(gateway: Gateway, tmp_path: Path) -> None:
    async def silent(connection: Connection) -> None:
        await connection.hangs_up()

    gateway.students.script = silent
    silent_app = app_of(gateway.store, gateway.jobs, tmp_path, gateway.students.url, timeout=0.5)
    with serving.app(silent_app) as url:
        answer = httpx2.post(f"{url}/v1/chat/completions", json=gateway.body(), timeout=PATIENCE)
    assert "in time" in refused(answer, 503, "students_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    with serving.app(app_of(gateway.store, gateway.jobs, tmp_path, nobody)) as url:
        answer = httpx2.post(f"{url}/v1/chat/completions", json=gateway.body())
    assert "cannot be reached" in refused(answer, 503, "students_unavailable")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("status", "kind", "expected", "code", "wait"),
    [
        (422, "validation", 400, "invalid_value", None),
        (424, "model_not_loaded", 424, "model_not_loaded", None),
        (413, "validation", 413, "invalid_value", None),
        (429, "overloaded", 429, "overloaded", "7"),
        (503, "loading", 503, "students_unavailable", "7"),
        (500, "internal", 503, "students_unavailable", "7"),
    ],
)
def test_its_errors_are_told_in_our_words(
    gateway: Gateway, status: int, kind: str, expected: int, code: str, wait: str | None
) -> None:
    async def script(connection: Connection) -> None:
        told = json.dumps({"error": "no luck", "error_type": kind}).encode()
        connection.answer(status, told, retry_after="7")

    gateway.students.script = script
    answer = gateway.chat(stream=True)
    assert refused(answer, expected, code) == "no luck"
    assert answer.headers.get("retry-after") == wait


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("`best_of` must be >= 2 and <= 16. Given: 1", "best_of"),
        ("`inputs` tokens + `max_new_tokens` must be <= 2048. Given: 20012", "messages"),
        ("`max_new_tokens` must be strictly positive", "max_tokens"),
        ("it is too late", None),
    ],
)
def test_a_refusal_names_the_field_as_its_client_does(
    gateway: Gateway, message: str, param: str | None
) -> None:
    async def script(connection: Connection) -> None:
        connection.answer(422, json.dumps({"error": message, "error_type": "validation"}).encode())

    gateway.students.script = script
    assert refused(gateway.chat(), 400, "invalid_value", param) == message


@pytest.mark.parametrize("body", [b"", b"oops", b"[1]", b'"x"'])
def test_an_error_without_words_is_one_too(gateway: Gateway, body: bytes) -> None:
    async def script(connection: Connection) -> None:
        connection.answer(502, body)

    gateway.students.script = script
    assert "without saying why" in refused(gateway.chat(), 503, "students_unavailable")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 2049}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"stream": "yes"}, "stream"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"explain": "yes"}, "explain"),
        ({"seed": 2**63}, "seed"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_field_is_named(gateway: Gateway, changes: dict[str, Any], param: str) -> None:
    assert f"`{param}`" in refused(gateway.chat(**changes), 400, "invalid_value", param)
    assert gateway.students.asked == []


def test_text_that_is_no_unicode_is_refused(gateway: Gateway) -> None:
    """JSON can spell half a character; no other JSON can carry it on."""
    for name, value in (("response_format", {"type": "\ud800"}), ("stop", "\udfff")):
        body = json.dumps(gateway.body(**{name: value}))
        answer = httpx2.post(
            f"{gateway.url}/v1/chat/completions",
            content=body,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "not_utf8"


@pytest.mark.parametrize("model", ["gpt-4o", ABSENT, "../x", "", "model-" + "0" * 5000])
def test_only_published_students_are_asked(gateway: Gateway, model: str) -> None:
    refused(gateway.chat(model=model), 404, "model_not_found", "model")
    body = {"model": model, "prompt": "x"}
    answer = httpx2.post(f"{gateway.url}/v1/completions", json=body)
    refused(answer, 404, "model_not_found", "model")
    assert gateway.students.asked == []


def test_connections_are_kept_and_closed_at_the_end(tmp_path: Path) -> None:
    """One client for all; the shutdown of the gateway closes it."""
    store, students = MemoryStore(), ScriptedStudents(good)
    model = publish(store)
    app = app_of(store, MemoryJobStore(), tmp_path, students.url)
    with serving.app(app) as url:
        asked = {"model": model, "prompt": "x"}
        assert httpx2.post(f"{url}/v1/completions", json=asked).status_code == 200
    with serving.app(app) as url:
        assert httpx2.post(f"{url}/v1/completions", json=asked).status_code == 500
    students.close()


# --- DELETE /v1/models/{id} --------------------------------------------------------------------


def job_with(base: str, status: JobStatus) -> Job:
    settings = MethodSpec.model_validate({"task": {"answer": "number"}})
    spec = JobSpec(model=base, training_file=keys.new_id("file"), settings=settings)
    return Job(id=keys.new_id("ftjob"), spec=spec, status=status, created_at=1.0)


def test_a_model_is_deleted_unless_a_job_needs_it(gateway: Gateway) -> None:
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    job = job_with(gateway.model, JobStatus.QUEUED)
    gateway.jobs.create(job_with("tiny", JobStatus.RUNNING))
    gateway.jobs.create(job)
    with pytest.raises(openai.ConflictError, match=job.id) as kept:
        client.models.delete(gateway.model)
    assert (kept.value.code, kept.value.param) == ("model_in_use", "model")
    assert [model.id for model in client.models.list()] == [gateway.model]
    gateway.jobs.delete(job.id)
    gateway.jobs.create(job_with(gateway.model, JobStatus.SUCCEEDED))
    gone = client.models.delete(gateway.model)
    assert (gone.id, gone.object, gone.deleted) == (gateway.model, "model", True)
    assert list(client.models.list()) == []
    assert gateway.store.list(keys.model_prefix(gateway.model)) == []
    with pytest.raises(openai.NotFoundError):
        client.models.delete(gateway.model)


@pytest.mark.parametrize(
    ("part", "field"), [("negatives", "checkpoint"), ("discriminator", "encoder")]
)
def test_a_model_is_needed_by_whatever_field_names_it(
    gateway: Gateway, part: str, field: str
) -> None:
    settings = {"task": {"answer": "number"}, part: {field: gateway.model}}
    job = job_with("tiny", JobStatus.QUEUED)
    spec = job.spec.model_copy(update={"settings": MethodSpec.model_validate(settings)})
    gateway.jobs.create(job.model_copy(update={"spec": spec}))
    answer = httpx2.delete(f"{gateway.url}/v1/models/{gateway.model}")
    assert answer.status_code == 409
    assert f"`method.qcrd.{part}.{field}`" in answer.json()["error"]["message"]


def test_the_description_goes_first(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    monkeypatch.setattr(gateway.store, "delete", order.append)
    assert httpx2.delete(f"{gateway.url}/v1/models/{gateway.model}").status_code == 200
    assert order[0] == keys.model_manifest_key(gateway.model)
    assert f"{keys.model_prefix(gateway.model)}config.json" in order
