"""TGI's own routes: /generate, /generate_stream, POST / and /tokenize."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher import sse
from services.teacher.inference import wire
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON, CompatRequest, GenerateRequest
from services.teacher.routes import native_responses
from services.teacher.routes.common import (
    ANSWER_OR_STREAM,
    CLIENT_CLOSED_REQUEST,
    GenerationRoutes,
)


def create_router(routes: GenerationRoutes) -> APIRouter:
    @routes.post("/generate", GenerateRequest)
    async def generate(request: Request) -> Response:
        body = await routes.parse_body(request, GenerateRequest)
        return await handle_generate(routes, request, body, array=False)

    @routes.post("/generate_stream", GenerateRequest, media_types=(sse.MEDIA_TYPE,))
    async def generate_stream(request: Request) -> Response:
        return handle_generate_stream(routes, await routes.parse_body(request, GenerateRequest))

    @routes.post("/", CompatRequest, media_types=ANSWER_OR_STREAM)
    async def compat_generate(request: Request) -> Response:
        return await handle_compat_generate(
            routes, request, await routes.parse_body(request, CompatRequest)
        )

    @routes.post("/tokenize", wire.TokenizeRequest)
    async def tokenize(request: Request) -> list[JSON]:
        body = await routes.parse_body(request, wire.TokenizeRequest)
        tokens = await routes.inference.engine.tokenize(body.inputs)
        if tokens is None:
            raise HTTPException(404, "this engine has no tokenizer")
        return [wire.serialize_simple_token(piece) for piece in tokens]

    return routes.router


async def handle_compat_generate(
    routes: GenerationRoutes, request: Request, body: CompatRequest
) -> Response:
    """POST /: an array of one, or a stream; the prompt in front may be this route's default."""
    settings = routes.inference.settings
    full_text_default = settings.return_full_text or settings.tgi_strict
    if body.stream:
        return handle_generate_stream(routes, body, full_text_default=full_text_default)
    return await handle_generate(
        routes, request, body, array=True, full_text_default=full_text_default
    )


async def handle_generate(
    routes: GenerationRoutes,
    request: Request,
    body: GenerateRequest,
    *,
    array: bool,
    full_text_default: bool = False,
) -> Response:
    inference_request = InferenceRequest(body.inputs, body.parameters)
    result = await run_until_disconnect(
        request.receive, routes.inference.generate(inference_request)
    )
    if result is None:
        return CLIENT_CLOSED_REQUEST
    content = native_responses.build_response_body(
        result, body.parameters, full_text_default=full_text_default
    )
    characters = len(body.inputs)
    return routes.build_response([content] if array else content, [result], characters=characters)


def handle_generate_stream(
    routes: GenerationRoutes, body: GenerateRequest, *, full_text_default: bool = False
) -> Response:
    events = native_responses.stream_events(
        routes.inference,
        InferenceRequest(body.inputs, body.parameters),
        full_text_default=full_text_default,
    )
    return routes.build_stream_response(events, characters=len(body.inputs))
