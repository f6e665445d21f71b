"""TGI's own routes: /generate, /generate_stream, POST / and /tokenize."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher.inference import wire
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON, CompatRequest, GenerateRequest
from services.teacher.routes import native_responses
from services.teacher.routes.common import GONE, Routes


def router(routes: Routes) -> APIRouter:
    @routes.post("/generate", GenerateRequest)
    async def generate(request: Request) -> Response:
        body = await routes.read(request, GenerateRequest)
        return await answered(routes, request, body, array=False)

    @routes.post("/generate_stream", GenerateRequest)
    async def generate_stream(request: Request) -> Response:
        return streamed(routes, await routes.read(request, GenerateRequest))

    @routes.post("/", CompatRequest)
    async def compat(request: Request) -> Response:
        return await either(routes, request, await routes.read(request, CompatRequest))

    @routes.post("/tokenize", wire.TokenizeRequest)
    async def tokenize(request: Request) -> list[JSON]:
        body = await routes.read(request, wire.TokenizeRequest)
        pieces = await routes.sessions.engine.tokenize(body.inputs)
        if pieces is None:
            raise HTTPException(404, "this engine has no tokenizer")
        return [wire.serialize_simple_token(piece) for piece in pieces]

    return routes.router


async def either(routes: Routes, request: Request, body: CompatRequest) -> Response:
    """POST /: an array of one, or a stream; the prompt in front may be this route's default."""
    settings = routes.sessions.settings
    full = settings.return_full_text or settings.tgi_strict
    if body.stream:
        return streamed(routes, body, full=full)
    return await answered(routes, request, body, array=True, full=full)


async def answered(
    routes: Routes, request: Request, body: GenerateRequest, *, array: bool, full: bool = False
) -> Response:
    ask = InferenceRequest(body.inputs, body.parameters)
    answer = await run_until_disconnect(request.receive, routes.sessions.generate(ask))
    if answer is None:
        return GONE
    content = native_responses.body(answer, body.parameters, full=full)
    characters = len(body.inputs)
    return routes.respond([content] if array else content, [answer], characters=characters)


def streamed(routes: Routes, body: GenerateRequest, *, full: bool = False) -> Response:
    events = native_responses.events(
        routes.sessions, InferenceRequest(body.inputs, body.parameters), full=full
    )
    return routes.stream(events, characters=len(body.inputs))
