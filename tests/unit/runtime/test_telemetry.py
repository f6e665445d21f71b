from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from qcrd.runtime import telemetry


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    @app.get("/v1/jobs/{job_id}")
    def job(job_id: str) -> dict[str, str | None]:
        logging.getLogger("routes").info("asked for %s", job_id)
        return {"request_id": telemetry.current_request_id()}

    @app.get("/crash")
    def crash() -> None:
        raise ZeroDivisionError("by zero")

    telemetry.install_http_telemetry(app, "api")
    return TestClient(app)


def test_log_lines_are_json_and_know_their_job(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging("trainer", "INFO")
    log = logging.getLogger("qcrd.test")
    with telemetry.log_context(job_id="ftjob-1"), telemetry.log_context(request_id="req-1"):
        log.info("step %d", 3, extra={"data": {"loss": 0.5}})
        log.debug("not shown")
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        log.exception("failed")
    first, second = lines(capsys)
    assert first.pop("time")
    assert first == {
        "level": "info",
        "service": "trainer",
        "logger": "qcrd.test",
        "message": "step 3",
        "job_id": "ftjob-1",
        "request_id": "req-1",
        "loss": 0.5,
    }
    assert "job_id" not in second
    assert "ValueError: broken" in str(second["exception"])


def test_a_threads_log_lines_do_not_leak_a_job_into_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure_logging("trainer")
    with telemetry.log_context(job_id="ftjob-1"):
        other = threading.Thread(target=logging.getLogger("other").info, args=("elsewhere",))
        other.start()
        other.join()
    assert "job_id" not in lines(capsys)[0]


def test_every_answer_has_a_request_id(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging("api")
    given = client.get("/v1/jobs/1", headers={"x-request-id": "mine-1"})
    assert given.headers["x-request-id"] == "mine-1"
    assert given.json() == {"request_id": "mine-1"}
    ours = [line for line in lines(capsys) if line["logger"] in ("routes", telemetry.__name__)]
    assert [line["request_id"] for line in ours] == ["mine-1", "mine-1"]
    for forged in ("a b", "x" * 200, 'a"b'):
        made = client.get("/v1/jobs/1", headers={"x-request-id": forged})
        assert made.headers["x-request-id"].startswith("req-")
    assert client.get("/nowhere").headers["x-request-id"].startswith("req-")


def test_a_crash_is_answered_in_the_envelope_and_logged(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging("api")
    answer = client.get("/crash")
    assert answer.status_code == 500
    assert answer.headers["x-request-id"]
    assert answer.json()["error"]["code"] == "internal_error"
    assert "by zero" not in answer.text
    assert any("by zero" in str(line.get("exception")) for line in lines(capsys))


def test_metrics_count_by_route_and_not_by_path(client: TestClient) -> None:
    for number in range(3):
        client.get(f"/v1/jobs/{number}")
    client.get("/nowhere/1")
    client.get("/crash")
    text = client.get("/metrics").text
    for line in (
        'route="/v1/jobs/{job_id}",service="api",status="200"} 3.0',
        'route="unmatched",service="api",status="404"} 1.0',
        'route="/crash",service="api",status="500"} 1.0',
    ):
        assert f'qcrd_http_requests_total{{method="GET",{line}' in text
    assert "process_resident_memory_bytes" in text
    assert "/v1/jobs/1" not in text


def test_two_apps_in_one_process_count_apart() -> None:
    one, two = FastAPI(), FastAPI()
    telemetry.install_http_telemetry(one, "one")
    telemetry.install_http_telemetry(two, "two")
    TestClient(one).get("/x")
    assert 'service="one"' not in TestClient(two).get("/metrics").text
