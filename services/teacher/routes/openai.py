"""The routes OpenAI's clients call, and /chat_tokenize, which reads the same conversation."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher.inference import wire
from services.teacher.inference.session import InferenceService
from services.teacher.inference.wire import JSON
from services.teacher.openai import chat, chat_template, completions
from services.teacher.openai.requests import (
    ChatRequest,
    CompletionRequest,
    TokenizeChatRequest,
    normalize_body,
)
from services.teacher.routes.common import GONE, Routes


def router(routes: Routes) -> APIRouter:
    loosen = None if routes.sessions.settings.tgi_strict else normalize_body

    @routes.post("/v1/completions", CompletionRequest)
    async def complete(request: Request) -> Response:
        return await completed(
            routes, request, await routes.read(request, CompletionRequest, loosen)
        )

    @routes.post("/v1/chat/completions", ChatRequest)
    async def talk(request: Request) -> Response:
        return await talked(routes, request, await routes.read(request, ChatRequest, loosen))

    @routes.post("/chat_tokenize", TokenizeChatRequest, guarded=False)
    async def chat_tokenize(request: Request) -> JSON:
        body = await routes.read(request, TokenizeChatRequest, loosen)
        sessions = routes.sessions
        text = await chat_template.render_prompt(
            body, sessions.engine, strict=sessions.settings.tgi_strict
        )
        pieces = await sessions.engine.tokenize(text, add_special_tokens=False) if text else None
        if pieces is None:
            raise HTTPException(404, "this engine has no tokenizer")
        return {
            "tokenize_response": [wire.serialize_simple_token(piece) for piece in pieces],
            "templated_text": text,
        }

    return routes.router


async def completed(routes: Routes, request: Request, body: CompletionRequest) -> Response:
    sessions = routes.sessions
    _twice(sessions)
    asks = completions.build_requests(body, sessions)
    characters = sum(len(prompt) for prompt in body.prompts)
    if body.stream:
        counted = body.stream_options.include_usage
        events = completions.stream_completion(sessions, asks, include_usage=counted)
        return routes.stream(events, characters=characters)
    got = await run_until_disconnect(request.receive, completions.create_completion(sessions, asks))
    if got is None:
        return GONE
    return routes.respond(got[0], got[1], characters=characters, whole=False)


async def talked(routes: Routes, request: Request, body: ChatRequest) -> Response:
    sessions = routes.sessions
    _twice(sessions)
    prepared = await chat_template.prepare_chat(body, sessions)
    characters = len(prepared.request.inputs)
    if body.stream:
        return routes.stream(
            chat.stream_chat_completion(sessions, body, prepared), characters=characters
        )
    got = await run_until_disconnect(
        request.receive, chat.create_chat_completion(sessions, body, prepared)
    )
    if got is None:
        return GONE
    return routes.respond(got[0], [got[1]], characters=characters)


def _twice(sessions: InferenceService) -> None:
    """TGI counts here and again at each generation (server.rs 727 and 296)."""
    if sessions.settings.tgi_strict:
        sessions.metrics.record_request()
