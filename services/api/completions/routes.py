"""`/v1/chat/completions` and `/v1/completions`: completions of published students."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from qcrd.records import rest
from services.api.completions import fallback
from services.api.completions.schemas import ChatCompletionRequest, CompletionRequest
from services.api.completions.student_client import StudentClient, forward_request
from services.api.dependencies import GatewayDep, get_service, inject
from services.api.models import service as models

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OpenAI's object, or with `stream` its chunks as server-sent events",
        "content": {"application/json": {}, "text/event-stream": {}},
    },
    424: {
        "model": rest.ErrorResponse,
        "description": "The student is broken, or failed.",
    },
}


StudentClientDep = Annotated[StudentClient, inject(StudentClient)]


@asynccontextmanager
async def close_client(app: FastAPI) -> AsyncIterator[None]:
    """Close the connections to the student server when the app shuts down."""
    try:
        yield
    finally:
        await get_service(app, StudentClient).close()


router = APIRouter(tags=["completions"], lifespan=close_client, responses=RESPONSES)


@router.post("/v1/chat/completions", response_class=Response)
async def create_chat_completion(
    gateway: GatewayDep, students: StudentClientDep, request: Request, body: ChatCompletionRequest
) -> Response:
    await run_in_threadpool(models.check_published, gateway.store, body.model)
    if not body.fallback:
        return await forward_request(students, request, "/v1/chat/completions", body)
    found = await fallback.find_fallback(gateway, body)
    response = await forward_request(students, request, "/v1/chat/completions", body)
    if response.status_code != 200:
        return response
    content = await fallback.hand_on(gateway, found, body, bytes(response.body))
    return Response(content, media_type="application/json")


@router.post("/v1/completions", response_class=Response)
async def create_completion(
    gateway: GatewayDep, students: StudentClientDep, request: Request, body: CompletionRequest
) -> Response:
    await run_in_threadpool(models.check_published, gateway.store, body.model)
    return await forward_request(students, request, "/v1/completions", body)
