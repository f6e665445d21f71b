"""POST /v1/chat/completions (TGI's server.rs 1168-1310, chat.rs)."""

from __future__ import annotations

import uuid
from dataclasses import replace

from services.teacher.inference.gathering import gather_results
from services.teacher.inference.results import GenerationResult
from services.teacher.inference.session import InferenceService
from services.teacher.inference.wire import JSON
from services.teacher.openai import tool_calls
from services.teacher.openai.chat_template import PreparedChat
from services.teacher.openai.requests import ChatRequest
from services.teacher.openai.responses import ResponseBuilder, build_logprobs, build_usage

Answer = tuple[GenerationResult, tool_calls.FunctionCall | None]


def make_response_builder(
    request: ChatRequest, inference: InferenceService, object_type: str
) -> ResponseBuilder:
    """A builder with the model name to echo; TGI echoes any but its own two."""
    is_model_named = request.model not in (None, "tgi")
    model = request.model if is_model_named and request.model else inference.engine.info.model_id
    return ResponseBuilder.create(
        object_type, "chatcmpl", model, strict=inference.settings.tgi_strict
    )


async def create_chat_completion(
    inference: InferenceService, request: ChatRequest, prepared: PreparedChat
) -> tuple[JSON, list[GenerationResult]]:
    """The response's body and its generation results. Raises `TeacherError`."""
    builder = make_response_builder(request, inference, "chat.completion")
    answers = await _generate_answers(inference, prepared, request.n or 1)
    choices = [_build_choice(builder, request, *answer) for answer in answers]
    results = [result for result, _ in answers]
    total_usage = build_usage(each.token_counts for each in results)
    return builder.build(choices, usage=total_usage), results


async def _generate_answers(
    inference: InferenceService, prepared: PreparedChat, n: int
) -> list[Answer]:
    if prepared.forces_call:
        return await gather_results(
            _generate_call(inference, prepared.for_choice(index), index) for index in range(n)
        )
    results = await inference.generate_choices(prepared.request, n)
    # An upstream parses its calls itself.
    is_upstream = prepared.request.conversation is not None
    return [(result, _find_call(result) if is_upstream else None) for result in results]


async def _generate_call(inference: InferenceService, prepared: PreparedChat, index: int) -> Answer:
    """A forced call, or an answer in words where the model declines every function."""
    result = await inference.generate(prepared.request)
    call: tool_calls.FunctionCall | None = tool_calls.parse_call(result.text)
    if (
        call is not None
        and call.name == tool_calls.NO_TOOL
        and prepared.request_without_tools is not None
    ):
        call, result = None, await inference.generate(prepared.request_without_tools)
    return replace(result, index=index), call


def _find_call(result: GenerationResult) -> tool_calls.FunctionCall | None:
    """The call among an upstream's tokens, as one piece, perhaps after some text."""
    text = next((each.text for each in result.tokens if tool_calls.is_call(each.text)), None)
    return None if text is None else tool_calls.parse_call(text)


def _build_choice(
    builder: ResponseBuilder,
    request: ChatRequest,
    result: GenerationResult,
    call: tool_calls.FunctionCall | None,
) -> JSON:
    call_id = next_tool_call_id(request)
    return {
        "index": result.index,
        "message": _build_message(result, call, call_id, strict=builder.strict),
        "logprobs": build_logprobs(result.tokens) if request.logprobs else None,
        "finish_reason": builder.to_finish_reason(result.finish_reason)
        if call is None
        else get_call_finish_reason(builder),
    }


def _build_message(
    result: GenerationResult, call: tool_calls.FunctionCall | None, call_id: str, *, strict: bool
) -> JSON:
    thoughts = {} if strict or not result.reasoning else {"reasoning_content": result.reasoning}
    if call is None:
        return {"role": "assistant", "content": result.text, **thoughts}
    function = {"description": None, "name": call.name, "arguments": call.arguments}
    calls = [{"id": call_id, "type": "function", "function": function}]
    # A message with a call has no key `content` in TGI, and a null one in OpenAI.
    content = {} if strict else {"content": None}
    return {"role": "assistant", **content, **thoughts, "tool_calls": calls}


def get_call_finish_reason(builder: ResponseBuilder) -> str:
    """The reason of a choice that is a function call."""
    return "stop" if builder.strict else "tool_calls"


def next_tool_call_id(request: ChatRequest) -> str:
    """The next call id: one more than in the history where those are numbers, as in TGI."""
    used_ids = [call.id for message in request.messages for call in message.tool_calls or ()]
    if all(used_id.isdecimal() for used_id in used_ids):
        return str(len(used_ids))
    return str(uuid.uuid4())
