"""Uploads to the gateway as a process, on a real store that can be cut off.

Also what only a real connection shows: slow clients, large headers, more connections than allowed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from minio import Minio

from benchmarks.gateway import upload as gateway_upload
from qcrd.runtime import keys
from qcrd.runtime.settings import StoreSettings
from qcrd.runtime.storage.s3 import S3Store
from tests.conftest import free_ports

BUCKET = "test-uploads"
LIMIT = 60_000_000
CONNECTIONS = 20
SECONDS = 1.5
"""That the gateway of these tests waits for headers, and for 16 KiB of a body."""
SECOND_LINE = '{"question": "a", "label": "b"}\n{"question"\n'


class Cable:
    """A TCP connection to the store that can be pulled out, and plugged in again."""

    def __init__(self, endpoint: str) -> None:
        host, port = endpoint.rsplit(":", 1)
        self._target = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.pulled = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def pull(self) -> None:
        self.pulled = True
        for one in self._open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.pull()
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self.pulled:
                    client.close()
                    continue
                store = socket.create_connection(self._target)
                self._open += [client, store]
                for pair in ((client, store), (store, client)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


@dataclass
class Door:
    url: str
    store: S3Store
    minio: Minio
    cable: Cable
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rsplit(":", 1)[1])

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=60)

    def left(self) -> list[str]:
        """Keys in the store, and uploads in parts that nobody will complete."""
        unfinished = self.minio._list_multipart_uploads(BUCKET).uploads
        return [*self.store.list(""), *(one.object_name for one in unfinished)]

    def clear(self) -> None:
        for key in self.store.list(""):
            self.store.delete(key)
        for one in self.minio._list_multipart_uploads(BUCKET).uploads:
            self.minio._abort_multipart_upload(BUCKET, one.object_name, one.upload_id)


@pytest.fixture
def door(gateway: Door) -> Iterator[Door]:
    """With nothing in the store."""
    gateway.cable.pulled = False
    gateway.store.put("ready", b"")
    gateway.clear()
    yield gateway
    assert "Traceback" not in gateway.log.read_text()


@pytest.fixture(scope="module")
def gateway(
    s3_settings: StoreSettings, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Door]:
    cable = Cable(s3_settings.endpoint)
    settings = s3_settings.model_copy(update={"bucket": BUCKET})
    store, secret = S3Store(settings), settings.secret_key.get_secret_value()
    port = free_ports(1)[0]
    environment = {
        **os.environ,
        "QCRD_REDIS_URL": f"{redis_url.rsplit('/', 1)[0]}/901",
        "QCRD_S3_ENDPOINT": cable.endpoint,
        "QCRD_S3_ACCESS_KEY": settings.access_key,
        "QCRD_S3_SECRET_KEY": secret,
        "QCRD_S3_BUCKET": settings.bucket,
        "QCRD_API_PORT": str(port),
        "QCRD_API_HEADER_SECONDS": str(SECONDS),
        "QCRD_API_BODY_SECONDS": str(SECONDS),
        "QCRD_API_CONNECTIONS": str(CONNECTIONS),
        "QCRD_MAX_FILE_BYTES": str(LIMIT),
    }
    log = tmp_path_factory.mktemp("uploads") / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.api.main"],
            env=environment,
            cwd=Path(__file__).parents[3],
            stdout=out,
            stderr=out,
        )
    minio = Minio(
        settings.endpoint, access_key=settings.access_key, secret_key=secret, secure=False
    )
    made = Door(f"http://127.0.0.1:{port}", store, minio, cable, process, log)
    try:
        until(lambda: answers(made))
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        cable.close()


def answers(door: Door) -> bool:
    assert door.process.poll() is None, door.log.read_text()
    try:
        return httpx2.get(f"{door.url}/health").is_success
    except httpx2.TransportError:
        return False


def until(look: Callable[[], object], seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def heading(length: int | None, *, close: bool = False) -> bytes:
    size = f"Content-Length: {length}" if length is not None else "Transfer-Encoding: chunked"
    kind = f"multipart/form-data; boundary={gateway_upload.BOUNDARY}"
    end = "Connection: close\r\n" if close else ""
    return (
        f"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{size}\r\n{end}\r\n"
    ).encode()


def form(file: bytes) -> bytes:
    return b"".join(gateway_upload.encode_form(iter([file])))


def read_answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    answer = b""
    while b"\r\n\r\n" not in answer or not _whole(answer):
        data = connection.recv(65536)
        assert data, answer
        answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(body)["error"]


def ended(connection: socket.socket) -> bool:
    """Whether the connection is closed while a byte is sent every tenth of a second."""
    try:
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.1)
    except OSError:
        return True
    return False


def _whole(answer: bytes) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if b"content-length" in line)
    return len(body) >= int(length.split(b":")[1])


def test_a_large_file_goes_through_in_little_memory(door: Door) -> None:
    """The 1 GB of the benchmark needed 57 MB beyond what the process had before; a file that was
    held as a whole would need its 55 MB more than once."""
    done = gateway_upload.measure(door.url, door.process.pid, size=55_000_000)
    assert done.status == 200
    assert done.peak < 200e6
    assert done.peak - done.before < 75e6
    (blob,) = door.store.list(keys.UPLOADS)
    with door.store.open(blob) as stored:
        whole = b"".join(iter(lambda: stored.read(1 << 20), b""))
    assert whole == b"".join(gateway_upload.generate_lines(55_000_000))


@pytest.mark.parametrize("close", [True, False])
def test_a_client_that_sends_on_gets_the_answer_to_a_bad_second_line(
    door: Door, close: bool
) -> None:
    """It reads only when all is sent, as most clients do; a reset would take the answer away."""
    body = form(SECOND_LINE.encode() + b"x" * 50_000_000)
    with door.connect() as connection:
        connection.sendall(heading(len(body), close=close))
        for start in range(0, len(body), 1 << 20):
            connection.sendall(body[start : start + (1 << 20)])
        status, error = read_answer(connection)
        if close:
            assert connection.recv(1) == b""
        else:  # and the connection can be used again
            connection.sendall(b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert read_answer(connection)[0] == 404
    assert (status, error["param"], error["code"]) == (400, "file", "broken_json")
    assert error["message"].startswith("line 2: ")
    assert door.left() == []


def test_the_stock_client_is_told_the_bad_line_of_a_large_file(door: Door) -> None:
    client = openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0)
    data = SECOND_LINE.encode() + b"x" * 50_000_000
    with pytest.raises(openai.BadRequestError, match="line 2: broken JSON") as caught:
        client.files.create(file=("large.jsonl", io.BytesIO(data)), purpose="fine-tune")
    assert caught.value.code == "broken_json"
    assert caught.value.request_id
    data = b"x" * (LIMIT + 100_000)
    with pytest.raises(openai.APIStatusError) as large:
        client.files.create(file=("large.jsonl", io.BytesIO(data)), purpose="fine-tune")
    assert large.value.status_code == 413
    assert door.left() == []


def test_a_body_that_grows_beyond_the_limit_is_refused(door: Door) -> None:
    done = gateway_upload.measure(door.url, door.process.pid, size=LIMIT + 1_000_000)
    assert done.status == 413
    assert door.left() == []


def test_a_client_that_hangs_up_leaves_nothing(door: Door) -> None:
    body = form(b"".join(gateway_upload.generate_lines(30_000_000)))
    with door.connect() as connection:
        connection.sendall(heading(len(body)) + body[:20_000_000])
        until(door.left)
    until(lambda: door.left() == [])
    until(lambda: '"status": 499' in door.log.read_text())
    done = gateway_upload.measure(door.url, door.process.pid, size=100_000)
    assert done.status == 200


def test_a_store_that_goes_away_in_the_middle_is_a_503_and_shows_nothing(door: Door) -> None:
    body = form(b"".join(gateway_upload.generate_lines(30_000_000)))
    with door.connect() as connection:
        connection.sendall(heading(len(body)) + body[:20_000_000])
        until(door.left)
        door.cable.pull()
        connection.sendall(body[20_000_000:])
        connection.settimeout(60)
        answer = connection.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 503 ")
    assert "retry-after: " in answer.lower()
    assert '"code":"unavailable"' in answer
    assert door.store.list("") == []


def test_equal_files_at_once_are_one(door: Door) -> None:
    statuses: list[int] = []

    def upload() -> None:
        done = gateway_upload.measure(door.url, door.process.pid, size=2_000_000)
        statuses.append(done.status)

    threads = [threading.Thread(target=upload) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 6
    assert len(door.store.list(keys.UPLOADS)) == 1
    assert len(httpx2.get(f"{door.url}/v1/files").json()["data"]) == 1


# --- connections -------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /health HTTP/1.1\r\nHost: [::1]\r\nx: "])
def test_headers_that_take_too_long_end_the_connection(door: Door, sent: bytes) -> None:
    with door.connect() as connection:
        connection.sendall(sent)
        assert connection.recv(1000) == b""


def test_headers_that_drip_end_the_connection_as_well(door: Door) -> None:
    with door.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: ")
        assert ended(connection)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/fine_tuning/jobs"])
def test_a_body_that_drips_is_answered_408(door: Door, path: str) -> None:
    head = heading(1_000_000).replace(b"/v1/files", path.encode())
    with door.connect() as connection:
        connection.sendall(head + form(b"")[:100])
        stop = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stop.wait(0.1):
                    connection.sendall(b"{")

        dripping = threading.Thread(target=drip)
        dripping.start()
        status, error = read_answer(connection)
        stop.set()
        dripping.join()
    assert (status, error["code"]) == (408, "too_slow")
    assert door.left() == []


def test_an_answered_body_that_drips_ends_the_connection(door: Door) -> None:
    head = heading(10_000_000).replace(b"multipart/form-data", b"text/plain")
    with door.connect() as connection:
        connection.sendall(head)
        assert read_answer(connection)[0] == 415
        assert ended(connection)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 300_000, 431),
        (b"GET /" + b"y" * 300_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", 431),
        (b"no HTTP at all\r\n\r\n", 400),
        (b"GET http://[/ HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"CONNECT here HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (
            b"POST /v1/files HTTP/1.1\r\nHost: [::1]\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            400,
        ),
    ],
)
def test_what_is_no_request_is_told_so_in_the_envelope(
    door: Door, sent: bytes, status: int
) -> None:
    with door.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(sent)
        found, error = read_answer(connection)
    assert found == status
    assert set(error) == {"message", "type", "param", "code"}


def test_connections_beyond_the_limit_are_told_to_come_back(door: Door) -> None:
    """They hold one request open each: bodies that are on their way."""
    held = [door.connect() for _ in range(CONNECTIONS)]
    try:
        for one in held:
            one.sendall(heading(10_000_000))
        with httpx2.Client(base_url=door.url) as client:
            answer = client.get("/v1/models")
            assert client.get("/health").is_success
            held.pop().close()
            # The same connection, once there is room: a proxy keeps its own.
            until(lambda: client.get("/v1/models").is_success)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "too_many_connections"
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["x-request-id"]
    finally:
        for one in held:
            one.close()
    until(lambda: httpx2.get(f"{door.url}/v1/models").is_success)
