"""The routes OpenAI's clients call, and /chat_tokenize, which reads the same conversation."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher.inference import wire
from services.teacher.inference.session import InferenceService
from services.teacher.inference.wire import JSON
from services.teacher.openai import chat, chat_stream, chat_template, completions
from services.teacher.openai.requests import (
    ChatRequest,
    CompletionRequest,
    TokenizeChatRequest,
    drop_own_fields,
    normalize_body,
)
from services.teacher.routes.common import (
    ANSWER_OR_STREAM,
    CLIENT_CLOSED_REQUEST,
    GenerationRoutes,
)


def create_router(routes: GenerationRoutes) -> APIRouter:
    normalize = drop_own_fields if routes.inference.settings.tgi_strict else normalize_body

    @routes.post("/v1/completions", CompletionRequest, media_types=ANSWER_OR_STREAM)
    async def create_completion(request: Request) -> Response:
        return await handle_completion(
            routes, request, await routes.parse_body(request, CompletionRequest, normalize)
        )

    @routes.post("/v1/chat/completions", ChatRequest, media_types=ANSWER_OR_STREAM)
    async def create_chat_completion(request: Request) -> Response:
        return await handle_chat_completion(
            routes, request, await routes.parse_body(request, ChatRequest, normalize)
        )

    @routes.post("/chat_tokenize", TokenizeChatRequest, requires_key=False)
    async def chat_tokenize(request: Request) -> JSON:
        body = await routes.parse_body(request, TokenizeChatRequest, normalize)
        inference = routes.inference
        text = await chat_template.render_prompt(
            body, inference.engine, strict=inference.settings.tgi_strict
        )
        tokens = await inference.engine.tokenize(text, add_special_tokens=False) if text else None
        if tokens is None:
            raise HTTPException(404, "this engine has no tokenizer")
        return {
            "tokenize_response": [wire.serialize_simple_token(piece) for piece in tokens],
            "templated_text": text,
        }

    return routes.router


async def handle_completion(
    routes: GenerationRoutes, request: Request, body: CompletionRequest
) -> Response:
    inference = routes.inference
    _count_request_again(inference)
    inference_requests = completions.build_requests(body, inference)
    characters = sum(len(prompt) for prompt in body.prompts)
    if body.stream:
        include_usage = body.stream_options.include_usage
        events = completions.stream_completion(
            inference, inference_requests, body.n or 1, include_usage=include_usage
        )
        return routes.build_stream_response(events, characters=characters)
    outcome = await run_until_disconnect(
        request.receive, completions.create_completion(inference, inference_requests, body.n or 1)
    )
    if outcome is None:
        return CLIENT_CLOSED_REQUEST
    return routes.build_response(outcome[0], outcome[1], characters=characters, compute_time=False)


async def handle_chat_completion(
    routes: GenerationRoutes, request: Request, body: ChatRequest
) -> Response:
    inference = routes.inference
    _count_request_again(inference)
    prepared = await chat_template.prepare_chat(body, inference)
    characters = len(prepared.request.inputs)
    if body.stream:
        return routes.build_stream_response(
            chat_stream.stream_chat_completion(inference, body, prepared), characters=characters
        )
    outcome = await run_until_disconnect(
        request.receive, chat.create_chat_completion(inference, body, prepared)
    )
    if outcome is None:
        return CLIENT_CLOSED_REQUEST
    return routes.build_response(outcome[0], outcome[1], characters=characters)


def _count_request_again(inference: InferenceService) -> None:
    """Count the request, which TGI does here and at each generation (server.rs 727 and 296)."""
    if inference.settings.tgi_strict:
        inference.metrics.record_request()
