"""What a student answers: OpenAI's two routes. It answers greedily, as it was measured, unless a
request asks for sampling."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from qcrd.records.prompt_format import PromptFormat
from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher.inference.wire import U32, GenerateParameters
from services.teacher.openai.requests import (
    BaseCompletionRequest,
    ChatRequest,
    CompletionRequest,
    normalize_body,
)
from services.teacher.routes.common import CLIENT_CLOSED_REQUEST, GenerationRoutes
from services.teacher.routes.openai import handle_completion
from services.teacher.students import chat
from services.teacher.students.prompting import plan


class Greedy(BaseCompletionRequest):
    def parameters(self, **more: Any) -> GenerateParameters:
        """Sampling only where a temperature or `top_p` asks for it."""
        made = super().to_parameters(**more)
        sampled = self.temperature is not None or self.top_p is not None
        return made if sampled else made.model_copy(update={"do_sample": False})


class Completion(Greedy, CompletionRequest):
    """The prompt goes to the student as it is, without prefix and suffix."""


class Chat(Greedy, ChatRequest):
    """`explain`: with the rationale, as `reasoning_content` of the message."""

    n: U32 | None = None
    explain: bool | None = None


def router(routes: GenerationRoutes, *, manner: PromptFormat) -> APIRouter:
    @routes.post("/v1/completions", Completion)
    async def complete(request: Request) -> Response:
        return await handle_completion(
            routes, request, await routes.parse_body(request, Completion, normalize_body)
        )

    @routes.post("/v1/chat/completions", Chat)
    async def talk(request: Request) -> Response:
        return await _talked(routes, request, manner)

    return routes.router


async def _talked(routes: GenerationRoutes, request: Request, manner: PromptFormat) -> Response:
    body = await routes.parse_body(request, Chat, normalize_body)
    sessions = routes.inference
    asked = await plan(
        body, sessions, manner, explain=body.explain or False, n=1 if body.n is None else body.n
    )
    characters = sum(len(one.label.inputs) for one in asked)
    if body.stream:
        return routes.build_stream_response(
            chat.events(sessions, body, asked), characters=characters
        )
    got = await run_until_disconnect(request.receive, chat.answer(sessions, body, asked))
    if got is None:
        return CLIENT_CLOSED_REQUEST
    return routes.build_response(got[0], got[1], characters=characters)
