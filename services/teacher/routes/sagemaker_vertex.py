"""What SageMaker (/invocations) and Vertex AI (/vertex) call: the other routes' bodies, wrapped."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher.errors import InvalidBody, PredictionFailed, TeacherError
from services.teacher.inference.session import GenerationResult
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import (
    CompatRequest,
    GenerateParameters,
    GenerateRequest,
    WireModel,
)
from services.teacher.openai import chat_template
from services.teacher.openai.requests import ChatRequest, CompletionRequest, normalize_body
from services.teacher.request_body import parse_body
from services.teacher.routes.common import GONE, Routes
from services.teacher.routes.native import either
from services.teacher.routes.openai import completed, talked

NO_SHAPE = (
    "Failed to deserialize the JSON body into the target type: "
    "it needs `inputs`, `messages` or `prompt`"
)


class VertexRequest(WireModel):
    instances: Annotated[tuple[GenerateRequest | ChatRequest, ...], Field(min_length=1)]


def router(routes: Routes) -> APIRouter:
    loosen = None if routes.sessions.settings.tgi_strict else normalize_body

    @routes.post("/invocations", CompatRequest, ChatRequest, CompletionRequest)
    async def invocations(request: Request) -> Response:
        data = await routes.raw(request)
        keys = _keys(data)
        if "inputs" in keys:
            return await either(routes, request, parse_body(CompatRequest, data))
        if "messages" in keys:
            return await talked(routes, request, parse_body(ChatRequest, data, loosen))
        if "prompt" in keys:
            return await completed(routes, request, parse_body(CompletionRequest, data, loosen))
        if keys:
            raise InvalidBody(NO_SHAPE, 422)
        return await either(routes, request, parse_body(CompatRequest, data))

    @routes.post("/vertex", VertexRequest)
    async def vertex(request: Request) -> Response:
        body = await routes.read(request, VertexRequest)
        answers = await run_until_disconnect(request.receive, _predict(routes, body))
        if answers is None:
            return GONE
        content = {"predictions": [answer.text for answer in answers]}
        characters = sum(len(answer.request.prompt) for answer in answers)
        return routes.respond(content, answers, characters=characters)

    return routes.router


def _keys(data: bytes) -> set[str]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return set()
    return set(body) if isinstance(body, dict) else set()


async def _predict(routes: Routes, body: VertexRequest) -> list[GenerationResult]:
    """Every instance at once. Raises the first one's `TeacherError`, which TGI hides behind
    `PredictionFailed`.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_one(routes, each)) for each in body.instances]
    except* TeacherError as errors:
        if routes.sessions.settings.tgi_strict:
            raise PredictionFailed from errors.exceptions[0]
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


async def _one(routes: Routes, instance: GenerateRequest | ChatRequest) -> GenerationResult:
    """TGI takes only the length and the seed from a native instance, and samples."""
    sessions = routes.sessions
    if isinstance(instance, ChatRequest):
        return await sessions.generate(
            (await chat_template.prepare_chat(instance, sessions)).request
        )
    given = instance.parameters
    parameters = GenerateParameters(
        do_sample=True, max_new_tokens=given.max_new_tokens, seed=given.seed, details=True
    )
    return await sessions.generate(InferenceRequest(instance.inputs, parameters))
