"""A gateway over real HTTP that says what a test tells it to: for the command line's own tests."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlparse

JOB = "ftjob-0123456789abcdef01234567"
MODEL = "model-0123456789abcdef01234567"
STUDY = "study-0123456789abcdef01234567"

REPORT: dict[str, Any] = {
    "job_id": JOB,
    "status": "succeeded",
    "test": {
        "qcrd": {"accuracy": 0.8, "low": 0.7, "high": 0.9, "n": 50, "steps": 60, "flops": 2e9},
        "finetune": {"accuracy": 0.7, "low": 0.6, "high": 0.8, "n": 50, "steps": 60, "flops": 1e9},
        "teacher": {"accuracy": 0.9, "low": 0.8, "high": 0.95, "n": 50},
    },
    "rationales": {"questions": 40, "outputs": 200, "parsed": 190, "reused": 200},
    "usage": {"teacher_prompt_tokens": 0, "teacher_completion_tokens": 0},
    "model": {"id": MODEL},
    "seconds": {"assembling": 3.0, "training": 20.0},
    "judge": {
        "pretrained_auc": 0.75,
        "pretrained_positives": 40,
        "pretrained_negatives": 9,
        "auc": 0.9,
        "positives": 40,
        "negatives": 12,
    },
    "notes": ["the judge saw few negatives"],
}


def event(number: int, message: str, **data: Any) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job.event",
        "id": f"1000-{number}",
        "created_at": 1_700_000_000,
        "level": "info",
        "message": message,
        "type": "message",
        "data": data,
    }


ESTIMATE: dict[str, Any] = {
    "teacher": {
        "outputs": 30,
        "reused": 10,
        "asked": 20,
        "prompt_tokens": 2000,
        "completion_tokens": None,
        "completion_tokens_at_most": 5120,
        "cost": None,
        "cost_at_most": 0.0123,
        "currency": "EUR",
        "basis": ["the teacher tokenized 6 of 6 prompts"],
    },
    "budget": {"teacher_tokens": 10, "cost": None, "fits": False, "message": "would pause"},
    "training_steps": 40,
    "untrained_share": 0.25,
    "assembling_seconds": None,
    "training_seconds": 12.0,
    "basis": [],
}


class ScriptedGateway:
    """`looks` are the job's states, one per `GET`, the last one for good. `streams` are what each
    connection for events sends before it closes."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.resumed_from: list[str | None] = []
        self.uploads: list[bytes] = []
        self.lose = 0
        """Jobs to be created that get no answer but 503."""
        self.keys: list[str | None] = []
        """The Idempotency-Key of each POST."""
        self.looks: list[dict[str, Any]] = [self.job("succeeded", report=REPORT)]
        self.streams: list[list[dict[str, Any]]] = [[event(1, "job created")]]
        self.studies: list[dict[str, Any]] = [self.study("succeeded")]
        self.refuse: tuple[int, dict[str, Any]] | None = None
        self.files: dict[str, bytes] = {}
        self.predictions: list[dict[str, Any]] = []
        self.lengths: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @staticmethod
    def job(status: str, **changes: Any) -> dict[str, Any]:
        job = {
            "id": JOB,
            "created_at": 1_700_000_000,
            "status": status,
            "stage": "training",
            "model": "all-MiniLM-L6-v2",
            "method": {"type": "qcrd"},
            "progress": {"percent": 50.0, "step": 3, "total_steps": 6, "eta_seconds": None},
            "fine_tuned_model": None,
            "error": None,
            "waiting": None,
            "report": None,
        }
        return job | changes

    @staticmethod
    def study(status: str, *jobs: dict[str, Any]) -> dict[str, Any]:
        """`jobs` are changes to a job of a study, each."""
        usual = {
            "id": JOB,
            "method": "qcrd",
            "seed": 0,
            "status": status,
            "stage": "training",
            "percent": 50.0,
            "waiting": None,
            "error": None,
        }
        return {
            "id": STUDY,
            "created_at": 1_700_000_000,
            "status": status,
            "methods": ["qcrd", "finetune"],
            "seeds": [0],
            "jobs": [usual | job for job in jobs or ({},)],
        }

    def answer(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        if path == "/v1/files":
            part = body.split(b"filename=", 1)[1]
            content = part.split(b"\r\n\r\n", 1)[1].split(b"\r\n--", 1)[0]
            self.uploads.append(content)
            name = f"file-{hashlib.sha256(content).hexdigest()[:24]}"
            return {"id": name, "lines": len(content.splitlines())}
        if path.startswith("/v1/studies"):
            return self._study(method, path, body)
        if path == "/v1/fine_tuning/jobs" and method == "POST":
            self.bodies.append(json.loads(body))
            return self.job("queued")
        if path.endswith("/estimate"):
            return ESTIMATE
        if path.endswith("/pause"):
            return self.job("paused")
        if path.endswith("/resume") and "/jobs/" in path:
            self.bodies.append(json.loads(body or b"null"))
            return self.job("queued")
        if method == "DELETE":
            return {"id": JOB, "deleted": True}
        if path == "/v1/fine_tuning/jobs":
            return {"data": [self.looks[0]], "has_more": False}
        if path.endswith("/cancel"):
            return self.job("cancelled")
        if path.endswith("/predictions"):
            return {"data": self.predictions, "has_more": False}
        if path.endswith("/events"):
            return {"data": list(reversed(self.streams[0])), "has_more": False}
        if path == "/v1/models":
            return {"data": [{"id": MODEL, "created": 1_700_000_000, "base": "b", "job_id": JOB}]}
        if path.startswith("/v1/models/"):
            links = [{"name": name, "url": f"{self.url}/s3/{name}"} for name in self.files]
            return {"id": MODEL, "files": links}
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def _study(self, method: str, path: str, body: bytes) -> dict[str, Any]:
        if path == "/v1/studies" and method == "POST":
            self.bodies.append(json.loads(body))
            return self.study("running")
        if path == "/v1/studies":
            return {"data": [self.studies[0]], "has_more": False}
        if path.endswith("/cancel"):
            return self.study("failed")
        if path.endswith("/resume"):
            return self.study("running")
        if path.endswith("/table"):
            return {"measured": "test"}
        return self.studies.pop(0) if len(self.studies) > 1 else self.studies[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._do("GET")

            def do_POST(self) -> None:
                gateway.keys.append(self.headers.get("Idempotency-Key"))
                self._do("POST")

            def do_DELETE(self) -> None:
                self._do("DELETE")

            def _do(self, method: str) -> None:
                url = urlparse(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gateway.requests.append((method, url.path))
                if gateway.refuse is not None:
                    status, envelope = gateway.refuse
                    self._send(status, json.dumps(envelope).encode())
                elif (method, url.path) == ("POST", "/v1/fine_tuning/jobs") and gateway.lose:
                    gateway.lose -= 1
                    self._send(503, b"{}")
                elif re.search("stream=true", url.query):
                    self._stream()
                elif url.path.startswith("/s3/"):
                    name = url.path.removeprefix("/s3/")
                    self._send(200, gateway.files[name], gateway.lengths.get(name))
                elif "format=markdown" in url.query or "format=svg" in url.query:
                    self._send(200, b"| qcrd [1] |" if "markdown" in url.query else b"<svg/>")
                else:
                    answer = gateway.answer(method, url.path, body)
                    self._send(200, json.dumps(answer).encode())

            def _send(self, status: int, body: bytes, length: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(length or len(body)))
                self.end_headers()
                self.wfile.write(body)

            def _stream(self) -> None:
                gateway.resumed_from.append(self.headers.get("Last-Event-ID"))
                streams = gateway.streams
                told = streams.pop(0) if len(streams) > 1 else streams[0]
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for one in told:
                    text = f":\n\nid: {one['id']}\ndata: {json.dumps(one)}\n\n"
                    self.wfile.write(text.encode())

        return Handler
