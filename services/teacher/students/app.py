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
from services.teacher.students.errors import StoreUnavailable
from services.teacher.students.loading import LoadedStudent
from services.teacher.students.model_cache import ModelCache

INTERNAL_ERROR_BODY = {"error": "internal error; see the log", "error_type": "internal"}


class ModelSelector(WireModel):
    """The only field of a request's body that is read here."""

    model: str


def create_students_app(
    cache: ModelCache[LoadedStudent], server: ServerSettings, check_store: Callable[[], object]
) -> FastAPI:
    """`check_store` raises `Transient` while the store is unavailable."""
    app = FastAPI(title="qcrd students", version=qcrd.__version__, redoc_url=None)

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def create_completion(request: Request) -> Response:
        data = await read_body(request, server.payload_limit)
        return StudentResponse(cache, parse_body(ModelSelector, data).model, data)

    @app.get("/v1/models")
    async def list_models() -> JSON:
        """The students in memory; a request may name any published one."""
        models_data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "qcrd"}
            for name in cache.loaded_models
        ]
        return {"object": "list", "data": models_data}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        try:
            await run_in_threadpool(check_store)
        except Transient as error:
            raise StoreUnavailable(error.message) from error
        return {"status": "ready"}

    install_error_handlers(app, strict=False)
    install_http_telemetry(app, "students", _build_gauges(cache), error_body=INTERNAL_ERROR_BODY)
    return app


class StudentResponse(Response):
    """The response of another app, which stays open until the last byte is sent."""

    def __init__(self, cache: ModelCache[LoadedStudent], name: str, body: bytes) -> None:
        super().__init__()
        self._cache, self._name, self._body = cache, name, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._cache.acquire(self._name) as student:
            await student.app(dict(scope), replay_body(self._body, receive), send)


def _build_gauges(cache: ModelCache[LoadedStudent]) -> CollectorRegistry:
    registry = CollectorRegistry()
    loaded = Gauge("qcrd_students_loaded", "Students in memory", registry=registry)
    loaded.set_function(lambda: len(cache.loaded_models))
    waiting = Gauge(
        "qcrd_students_waiting", "Requests waiting for a model to load", registry=registry
    )
    waiting.set_function(lambda: cache.waiting)
    return registry
