"""JSON log lines with job and request ids, and the HTTP request metrics of every service.

The middleware is plain ASGI, as the workers' image has no web framework.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Protocol

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from qcrd.errors import Transient
from qcrd.runtime.http.asgi import ASGIApp, Message, Receive, Scope, Send

_job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

log = logging.getLogger(__name__)


def current_request_id() -> str | None:
    """The id of the HTTP request being handled, or of the one that queued the current task."""
    return _request_id.get()


@contextmanager
def log_context(*, job_id: str | None = None, request_id: str | None = None) -> Iterator[None]:
    """Add these ids to the log lines of the block; None keeps the current id."""
    job = _job_id.set(job_id or _job_id.get())
    request = _request_id.set(request_id or _request_id.get())
    try:
        yield
    finally:
        _job_id.reset(job)
        _request_id.reset(request)


@contextmanager
def log_exceptions(activity: str, *, quiet: bool = False) -> Iterator[None]:
    """Log an exception of the block as `activity`, unless `quiet`, and suppress it: the boundary of
    a thread or task that runs as long as its process."""
    try:
        yield
    except Exception as error:
        if not quiet:
            # An outage needs no traceback; an unexpected exception does.
            is_outage = isinstance(error, Transient)
            level = logging.WARNING if is_outage else logging.ERROR
            log.log(level, "%s: %s", activity, error, exc_info=not is_outage)


class _JsonFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            "job_id": _job_id.get(),
            "request_id": _request_id.get(),
            **getattr(record, "data", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        fields = {name: value for name, value in line.items() if value is not None}
        # Celery's records contain dates.
        return json.dumps(fields, default=str)


def configure_logging(service: str, level: str = "INFO") -> None:
    """Log one JSON object per line to stderr, from every logger of the process.

    A log call adds fields by `extra={"data": {…}}`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access"  # TelemetryMiddleware writes that line
    # A line for each of ten thousand requests says less than the job's own events.
    logging.getLogger("httpx2").setLevel(logging.WARNING)


# --- HTTP ------------------------------------------------------------------------------------

INTERNAL_ERROR_BODY: Mapping[str, Any] = MappingProxyType(
    {
        "error": {
            "message": "internal error; see the log under this response's x-request-id",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }
    }
)
UNLOGGED_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Polled every few seconds by orchestrators: counted, but not logged."""

_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")


class SupportsMiddleware(Protocol):
    """What `install_http_telemetry` needs of a Starlette or FastAPI app."""

    def add_middleware(self, middleware_class: Any, **kwargs: Any) -> None: ...


def install_http_telemetry(
    app: SupportsMiddleware,
    service: str,
    registry: CollectorRegistry | None = None,
    *,
    error_body: Mapping[str, Any] = INTERNAL_ERROR_BODY,
) -> CollectorRegistry:
    """Give every response an `x-request-id`, serve `/metrics`, count, time and log requests.

    An exception that no handler of the app caught is logged and becomes status 500 with
    `error_body`. Call it after adding the app's other middleware, so that it is the outermost;
    `/metrics` includes what the service adds to the returned registry.
    """
    registry = registry or CollectorRegistry()
    ProcessCollector(registry=registry)
    app.add_middleware(
        TelemetryMiddleware, service=service, registry=registry, error_body=error_body
    )
    return registry


class TelemetryMiddleware:
    def __init__(
        self, app: ASGIApp, service: str, registry: CollectorRegistry, error_body: Mapping[str, Any]
    ) -> None:
        self._app = app
        self._service = service
        self._registry = registry
        self._error_body = json.dumps(dict(error_body)).encode()
        labels = ("service", "method", "route", "status")
        self._requests = Counter(
            "qcrd_http_requests", "HTTP responses sent", labels, registry=registry
        )
        self._seconds = Histogram(
            "qcrd_http_request_seconds",
            "Time until the response was sent",
            ("service", "method", "route"),
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = header if _REQUEST_ID.fullmatch(header) else f"req-{uuid.uuid4().hex[:24]}"
        with log_context(request_id=request_id):
            await self._handle(scope, receive, send, request_id)

    async def _handle(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started, status = time.perf_counter(), 0

        async def send_with_request_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"x-request-id", request_id.encode()),
                ]
            await send(message)

        try:
            if scope["path"] == "/metrics" and scope["method"] == "GET":
                # A collector may read Redis, which must not block the other requests.
                body = await asyncio.to_thread(generate_latest, self._registry)
                await _send_response(send_with_request_id, 200, CONTENT_TYPE_LATEST, body)
            else:
                await self._app(scope, receive, send_with_request_id)
        except Exception:  # the boundary of a request: it fails, the server does not
            log.exception("request failed")
            if not status:
                await _send_response(
                    send_with_request_id, 500, "application/json", self._error_body
                )
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"]
        # The route's template: concrete paths would add a label for every job.
        route = getattr(scope.get("route"), "path", None) or (
            scope["path"] if scope["path"] in UNLOGGED_PATHS else "unmatched"
        )
        self._requests.labels(self._service, method, route, str(status)).inc()
        self._seconds.labels(self._service, method, route).observe(seconds)
        if scope["path"] not in UNLOGGED_PATHS:
            data: dict[str, Any] = {"status": status, "milliseconds": round(seconds * 1000, 1)}
            if (key := scope.get("state", {}).get("key")) is not None:
                data["key"] = key.name
            log.info("%s %s", method, scope["path"], extra={"data": data})


async def _send_response(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
