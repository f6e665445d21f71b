"""What needs no key: `/health` checks only the process, `/ready` Redis and the store too and tells
how the teachers are, and the schema of specs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import Gauge

from qcrd.errors import QcrdError
from qcrd.records.specs.spec_schema import read_spec_schema
from qcrd.runtime.daemon_call import start_daemon_call
from services.api.dependencies import Gateway, GatewayDep, inject

router = APIRouter(tags=["health"])


class ReadinessNote:
    """Asks the parts, and notes for the metrics what the last answers were.

    Each is given `seconds`: a probe does not wait with a Redis that has stopped in its tracks. One
    that has not answered yet is not asked again, so that few threads wait for it.
    """

    def __init__(self, seconds: float = 5.0) -> None:
        # A scrape that asked the store itself would wait with it.
        self.gauge = Gauge(
            "qcrd_ready",
            "Whether Redis and the store answered when /ready was last asked, by part",
            ["part"],
            registry=None,
        )
        self._seconds = seconds
        self._lock = threading.Lock()
        self._asked: dict[str, Future[object]] = {}

    def ask(self, checks: Mapping[str, Callable[[], object]]) -> dict[str, str]:
        """`ok` or what is wrong, by part."""
        asked = {name: self._start(name, check) for name, check in checks.items()}
        wait(asked.values(), timeout=self._seconds)
        state = {name: self._describe(answer) for name, answer in asked.items()}
        for name, found in state.items():
            self.gauge.labels(name).set(found == "ok")
        return state

    def _start(self, name: str, check: Callable[[], object]) -> Future[object]:
        with self._lock:
            if (asked := self._asked.get(name)) is not None and not asked.done():
                return asked
            answer = self._asked[name] = start_daemon_call(check)
        return answer

    def _describe(self, answer: Future[object]) -> str:
        if not answer.done():
            return f"it has not answered within {self._seconds:g} s"
        error = answer.exception()
        if error is None:
            return "ok"
        if isinstance(error, QcrdError):
            return error.message
        raise error


ReadinessDep = Annotated[ReadinessNote, inject(ReadinessNote)]


# Not in a thread: all of them may be busy reading large files.
@router.get("/health")
async def check_health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready")
def check_readiness(gateway: GatewayDep, readiness: ReadinessDep) -> JSONResponse:
    checks: dict[str, Callable[[], object]] = {
        # Of Redis alone: the list of all jobs has those of the store too.
        "redis": gateway.jobs.count_by_status,
        # An empty folder: any response shows that the store is reachable.
        "store": lambda: gateway.store.list("ready/"),
    }
    state = readiness.ask(checks)
    is_ready = set(state.values()) == {"ok"}
    detail: dict[str, Any] = {"status": "ok" if is_ready else "unavailable", **state}
    if state["redis"] == "ok":  # both are asked of it, and would wait for it here
        if teachers := _list_teachers(gateway):
            detail["teachers"] = teachers
        if state["store"] == "ok":
            gateway.store.unreadable.look_again()
        if unreadable := _list_unreadable(gateway):
            detail["unreadable"] = unreadable
    return JSONResponse(detail, 200 if is_ready else 503)


# A document about the API, as /openapi.json is, and so no part of the latter.
@router.get("/v1/spec.schema.json", include_in_schema=False)
async def get_spec_schema() -> Response:
    """The JSON Schema of a job's spec, for editors; needs no key."""
    return Response(read_spec_schema(), media_type="application/schema+json")


@router.head("/health", include_in_schema=False)
async def probe_health() -> Response:
    """Answer `HEAD`, by which some load balancers probe."""
    return Response()


@router.head("/ready", include_in_schema=False)
def probe_readiness(gateway: GatewayDep, readiness: ReadinessDep) -> Response:
    return Response(status_code=check_readiness(gateway, readiness).status_code)


def _list_teachers(gateway: Gateway) -> dict[str, str]:
    """As a worker found them last; one that is away keeps nobody else from working."""
    found: dict[str, str] = {}
    try:
        for name, teacher in gateway.settings.teachers.teachers.items():
            check = gateway.shared.teacher_notes.read_check(teacher.identify(name))
            if check is not None:
                found[name] = check.summary
    except QcrdError:
        pass
    return found


def _list_unreadable(gateway: Gateway) -> dict[str, str]:
    """Records that this release cannot read, with the reason. They harm no others, so the gateway
    is ready all the same."""
    try:
        jobs = gateway.jobs.list_unreadable()
    except QcrdError:
        jobs = {}
    named = {**jobs, **gateway.store.unreadable.reasons()}
    # A damaged name may be no text that a response can have.
    return {_escape_surrogates(name): _escape_surrogates(named[name]) for name in named}


def _escape_surrogates(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
