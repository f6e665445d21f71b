"""`/health` asks only the process, `/ready` Redis and the store too. `/metrics` is telemetry's."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from qcrd.errors import QcrdError
from services.api.dependencies import GatewayDep

router = APIRouter(tags=["health"])


# Not in a thread, which it would wait for while all of them read large files.
@router.get("/health")
async def check_health() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/ready")
def check_readiness(gateway: GatewayDep) -> JSONResponse:
    checks: dict[str, Callable[[], object]] = {
        "redis": lambda: gateway.jobs.list(None, 1),
        # An empty folder: what is asked for is an answer, not a list.
        "store": lambda: gateway.store.list("ready/"),
    }
    state: dict[str, str] = {}
    for name, check in checks.items():
        try:
            check()
            state[name] = "ok"
        except QcrdError as error:
            state[name] = error.message
    is_ready = set(state.values()) == {"ok"}
    return JSONResponse(
        {"status": "ok" if is_ready else "unavailable", **state}, 200 if is_ready else 503
    )
