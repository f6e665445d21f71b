"""The server of published students: each request goes to the app of the student it names."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CollectorRegistry, Gauge
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

import qcrd
from qcrd.errors import Transient
from qcrd.runtime.http.asgi import replay_body
from qcrd.runtime.telemetry import install_http_telemetry
from services.teacher.app import install_error_handlers
from services.teacher.inference.wire import JSON, WireModel
from services.teacher.request_body import parse_body
from services.teacher.request_body import read_json_body as read_body
from services.teacher.settings import ServerSettings
from services.teacher.students.errors import StoreAway
from services.teacher.students.loading import Opened
from services.teacher.students.model_cache import Shelf

CRASH = {"error": "internal error; the log has it", "error_type": "internal"}


class Named(WireModel):
    """All of a request's body that is read here."""

    model: str


def create_students(
    shelf: Shelf[Opened], server: ServerSettings, reach: Callable[[], object]
) -> FastAPI:
    """`reach` raises `Transient` while the store is away."""
    app = FastAPI(title="qcrd students", version=qcrd.__version__, redoc_url=None)

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def asked(request: Request) -> Response:
        data = await read_body(request, server.payload_limit)
        return Borrowed(shelf, parse_body(Named, data).model, data)

    @app.get("/v1/models")
    async def models() -> JSON:
        """Those in memory; every published one can be asked."""
        names = [
            {"id": name, "object": "model", "created": 0, "owned_by": "qcrd"} for name in shelf.open
        ]
        return {"object": "list", "data": names}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        try:
            await run_in_threadpool(reach)
        except Transient as error:
            raise StoreAway(error.message) from error
        return {"status": "ready"}

    install_error_handlers(app, strict=False)
    install_http_telemetry(app, "students", _gauges(shelf), error_body=CRASH)
    return app


class Borrowed(Response):
    """The answer of another app, which stays open until the last byte is sent."""

    def __init__(self, shelf: Shelf[Opened], name: str, data: bytes) -> None:
        super().__init__()
        self._shelf, self._name, self._data = shelf, name, data

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._shelf.borrow(self._name) as student:
            await student.app(dict(scope), replay_body(self._data, receive), send)


def _gauges(shelf: Shelf[Opened]) -> CollectorRegistry:
    registry = CollectorRegistry()
    loaded = Gauge("qcrd_students_loaded", "Students in memory", registry=registry)
    loaded.set_function(lambda: len(shelf.open))
    waiting = Gauge("qcrd_students_waiting", "Requests that wait for theirs", registry=registry)
    waiting.set_function(lambda: shelf.waiting)
    return registry
