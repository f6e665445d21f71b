"""OpenAI's two routes for a student. It decodes greedily, as in the evaluation, unless a request
asks for sampling."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from qcrd.records.students.prompt_format import PromptFormat
from qcrd.runtime.http.asgi import run_until_disconnect
from services.teacher.inference.wire import GenerateParameters
from services.teacher.openai.requests import (
    BaseCompletionRequest,
    ChatRequest,
    CompletionRequest,
    normalize_body,
)
from services.teacher.routes.common import CLIENT_CLOSED_REQUEST, GenerationRoutes
from services.teacher.routes.openai import handle_completion
from services.teacher.students import chat
from services.teacher.students.choosing import AnswerChooser
from services.teacher.students.judge_client import JudgeClient
from services.teacher.students.prompting import build_choices
from services.teacher.students.selection import read_selection


class GreedyByDefault(BaseCompletionRequest):
    def to_parameters(self, **more: Any) -> GenerateParameters:
        """Greedy parameters, sampling only where a temperature or `top_p` is given."""
        parameters = super().to_parameters(**more)
        is_sampling = self.temperature is not None or self.top_p is not None
        return parameters if is_sampling else parameters.model_copy(update={"do_sample": False})


class StudentCompletionRequest(GreedyByDefault, CompletionRequest):
    """The prompt goes to the student as it is, without prefix and suffix."""


class StudentChatRequest(GreedyByDefault, ChatRequest):
    """`explain`: with the rationale, as `reasoning_content` of the message. `vote`, `best_of`: of
    so many outputs."""

    explain: bool | None = None
    vote: int | None = None
    best_of: int | None = None


def create_router(
    routes: GenerationRoutes, *, prompt_format: PromptFormat, judge: JudgeClient
) -> APIRouter:
    @routes.post("/v1/completions", StudentCompletionRequest)
    async def create_completion(request: Request) -> Response:
        return await handle_completion(
            routes,
            request,
            await routes.parse_body(request, StudentCompletionRequest, normalize_body),
        )

    @routes.post("/v1/chat/completions", StudentChatRequest)
    async def create_chat_completion(request: Request) -> Response:
        return await _handle_chat_completion(routes, request, AnswerChooser(prompt_format, judge))

    return routes.router


async def _handle_chat_completion(
    routes: GenerationRoutes, request: Request, chooser: AnswerChooser
) -> Response:
    body = await routes.parse_body(request, StudentChatRequest, normalize_body)
    inference = routes.inference
    choices = await build_choices(
        body,
        inference,
        chooser.prompt_format,
        explain=body.explain or False,
        n=1 if body.n is None else body.n,
        selection=read_selection(body.vote, body.best_of),
    )
    characters = sum(len(choice.label.inputs) for choice in choices)
    if body.stream:
        return routes.build_stream_response(
            chat.stream_chat_completion(inference, body, choices, chooser), characters=characters
        )
    outcome = await run_until_disconnect(
        request.receive, chat.create_chat_completion(inference, body, choices, chooser)
    )
    if outcome is None:
        return CLIENT_CLOSED_REQUEST
    return routes.build_response(outcome[0], outcome[1], characters=characters)
