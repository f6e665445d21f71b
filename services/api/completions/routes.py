"""`/v1/chat/completions` and `/v1/completions`: published students answer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from services.api.completions.schemas import ChatCompletion, Completion
from services.api.completions.student_client import StudentServer, forward
from services.api.dependencies import GatewayDep
from services.api.http import schemas
from services.api.models import service as models

ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OpenAI's object, or with `stream` its chunks as server-sent events",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
    424: {
        "model": schemas.Envelope,
        "description": "The student is broken, or failed.",
    },
}


def router(students: StudentServer) -> APIRouter:
    """Closes `students` when the app that includes it shuts down."""

    @asynccontextmanager
    async def closing(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await students.close()

    routes = APIRouter(tags=["completions"], lifespan=closing, responses=ANSWERS)

    @routes.post("/v1/chat/completions", response_class=Response)
    async def chat(here: GatewayDep, request: Request, body: ChatCompletion) -> Response:
        await run_in_threadpool(models.check_published, here.store, body.model)
        return await forward(students, request, "/v1/chat/completions", body)

    @routes.post("/v1/completions", response_class=Response)
    async def complete(here: GatewayDep, request: Request, body: Completion) -> Response:
        await run_in_threadpool(models.check_published, here.store, body.model)
        return await forward(students, request, "/v1/completions", body)

    return routes
