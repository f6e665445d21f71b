"""Routes of SageMaker (/invocations) and Vertex AI (/vertex), which wrap the other bodies."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field

from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher.errors import (
    InputValidationError,
    InvalidBody,
    PredictionFailed,
    TeacherError,
)
from services.teacher.inference.gathering import gather_results
from services.teacher.inference.results import GenerationResult
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import (
    CompatRequest,
    GenerateParameters,
    GenerateRequest,
    WireModel,
)
from services.teacher.openai import chat_template
from services.teacher.openai.requests import (
    ChatRequest,
    CompletionRequest,
    drop_own_fields,
    normalize_body,
)
from services.teacher.request_body import parse_body
from services.teacher.routes.common import (
    ANSWER_OR_STREAM,
    CLIENT_CLOSED_REQUEST,
    GenerationRoutes,
)
from services.teacher.routes.native import handle_compat_generate
from services.teacher.routes.openai import handle_chat_completion, handle_completion

UNKNOWN_BODY_MESSAGE = (
    "Failed to deserialize the JSON body into the target type: "
    "it needs `inputs`, `messages` or `prompt`"
)


class VertexRequest(WireModel):
    instances: Annotated[tuple[GenerateRequest | ChatRequest, ...], Field(min_length=1)]


def create_router(routes: GenerationRoutes) -> APIRouter:
    normalize = drop_own_fields if routes.inference.settings.tgi_strict else normalize_body

    @routes.post(
        "/invocations", CompatRequest, ChatRequest, CompletionRequest, media_types=ANSWER_OR_STREAM
    )
    async def invocations(request: Request) -> Response:
        body = await routes.read_raw_body(request)
        keys = _read_top_level_keys(body)
        if "inputs" in keys:
            return await handle_compat_generate(routes, request, parse_body(CompatRequest, body))
        if "messages" in keys:
            return await handle_chat_completion(
                routes, request, parse_body(ChatRequest, body, normalize)
            )
        if "prompt" in keys:
            return await handle_completion(
                routes, request, parse_body(CompletionRequest, body, normalize)
            )
        if keys:
            raise InvalidBody(UNKNOWN_BODY_MESSAGE, 422)
        return await handle_compat_generate(routes, request, parse_body(CompatRequest, body))

    @routes.post("/vertex", VertexRequest)
    async def vertex(request: Request) -> Response:
        body = await routes.parse_body(request, VertexRequest)
        results = await run_until_disconnect(request.receive, _predict(routes, body))
        if results is None:
            return CLIENT_CLOSED_REQUEST
        content = {"predictions": [result.text for result in results]}
        characters = sum(len(result.request.prompt) for result in results)
        return routes.build_response(content, results, characters=characters)

    return routes.router


def _read_top_level_keys(data: bytes) -> set[str]:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return set()
    return set(body) if isinstance(body, dict) else set()


async def _predict(routes: GenerationRoutes, body: VertexRequest) -> list[GenerationResult]:
    """Generate for every instance at once. Raises the first `TeacherError`, which TGI reports as
    `PredictionFailed`.
    """
    try:
        return await gather_results(_predict_one(routes, instance) for instance in body.instances)
    except TeacherError as error:
        if routes.inference.settings.tgi_strict:
            raise PredictionFailed from error
        raise


async def _predict_one(
    routes: GenerationRoutes, instance: GenerateRequest | ChatRequest
) -> GenerationResult:
    """TGI takes only the length and the seed from a native instance, and samples."""
    inference = routes.inference
    if isinstance(instance, ChatRequest):
        if (instance.n or 1) != 1 and not inference.settings.tgi_strict:
            raise InputValidationError("`n` must be 1: a prediction of this route is one text")
        return await inference.generate(
            (await chat_template.prepare_chat(instance, inference)).request
        )
    native_parameters = instance.parameters
    parameters = GenerateParameters(
        do_sample=True,
        max_new_tokens=native_parameters.max_new_tokens,
        seed=native_parameters.seed,
        details=True,
    )
    return await inference.generate(InferenceRequest(instance.inputs, parameters))
