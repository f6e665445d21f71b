"""`/health` asks only the process, `/ready` Redis and the store too. `/metrics` is telemetry's."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from qcrd.errors import Transient
from services.api.dependencies import Here

router = APIRouter(tags=["health"])


# Not in a thread, which it would wait for while all of them read large files.
@router.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready")
def ready(here: Here) -> JSONResponse:
    parts: dict[str, Callable[[], object]] = {
        "redis": lambda: here.jobs.list(None, 1),
        # An empty folder: what is asked for is an answer, not a list.
        "store": lambda: here.store.list("ready/"),
    }
    state: dict[str, str] = {}
    for name, ask in parts.items():
        try:
            ask()
            state[name] = "ok"
        except Transient as error:
            state[name] = error.message
    up = set(state.values()) == {"ok"}
    return JSONResponse({"status": "ok" if up else "unavailable", **state}, 200 if up else 503)
