"""POST /v1/chat/completions (TGI's server.rs 1168-1310, chat.rs)."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from services.teacher import sse
from services.teacher.errors import TeacherError
from services.teacher.inference.session import (
    GenerationResult,
    InferenceService,
    count_generated_tokens,
    get_input_length,
)
from services.teacher.inference.stopping import GenerationStep
from services.teacher.inference.wire import JSON
from services.teacher.openai import tool_calls
from services.teacher.openai.chat_template import PreparedChat
from services.teacher.openai.requests import ChatRequest
from services.teacher.openai.responses import (
    DONE_EVENT,
    ResponseBuilder,
    build_logprobs,
    build_usage,
)


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
) -> tuple[JSON, GenerationResult]:
    """The response's body and its generation results. Raises `TeacherError`."""
    builder = make_response_builder(request, inference, "chat.completion")
    result = await inference.generate(prepared.request)
    call = None
    if prepared.forces_call:
        call = tool_calls.parse_call(result.text)
        if call.name == tool_calls.NO_TOOL and prepared.request_without_tools is not None:
            call, result = None, await inference.generate(prepared.request_without_tools)
    elif prepared.request.conversation is not None:
        # An upstream parses its calls itself; each comes as one piece, perhaps after some text.
        call_text = next((t.text for t in result.tokens if tool_calls.is_call(t.text)), None)
        call = None if call_text is None else tool_calls.parse_call(call_text)
    choice: JSON = {
        "index": 0,
        "message": _build_message(result, call, next_tool_call_id(request), strict=builder.strict),
        "logprobs": build_logprobs(result.tokens) if request.logprobs else None,
        "finish_reason": builder.to_finish_reason(result.finish_reason)
        if call is None
        else _tool_call_finish_reason(builder),
    }
    return builder.build(
        [choice], usage=build_usage([(result.input_length, result.generated_tokens)])
    ), result


def _build_message(
    result: GenerationResult, call: tool_calls.FunctionCall | None, call_id: str, *, strict: bool
) -> JSON:
    if call is None:
        return {"role": "assistant", "content": result.text}
    function = {"description": None, "name": call.name, "arguments": call.arguments}
    calls = [{"id": call_id, "type": "function", "function": function}]
    # A message with a call has no key `content` in TGI, and a null one in OpenAI.
    content = {} if strict else {"content": None}
    return {"role": "assistant", **content, "tool_calls": calls}


def _tool_call_finish_reason(builder: ResponseBuilder) -> str:
    return "stop" if builder.strict else "tool_calls"


def next_tool_call_id(request: ChatRequest) -> str:
    """The next call id: one more than in the history where those are numbers, as in TGI."""
    used_ids = [call.id for message in request.messages for call in message.tool_calls or ()]
    if all(used_id.isdecimal() for used_id in used_ids):
        return str(len(used_ids))
    return str(uuid.uuid4())


async def stream_chat_completion(
    inference: InferenceService, request: ChatRequest, prepared: PreparedChat
) -> AsyncGenerator[bytes, None]:
    """The chunks, then `[DONE]`, also after an error."""
    deltas = _DeltaBuilder(
        make_response_builder(request, inference, "chat.completion.chunk"), request
    )
    try:
        async with aclosing(_stream_chunks(inference, prepared, deltas)) as run:
            async for chunk in run:
                yield sse.format_event(chunk)
        if request.stream_options.include_usage:
            yield sse.format_event(
                deltas.builder.build([], usage=build_usage([deltas.token_counts]))
            )
    except TeacherError as error:
        yield deltas.builder.build_error_event(error)
    yield DONE_EVENT


async def _stream_chunks(
    inference: InferenceService, prepared: PreparedChat, deltas: _DeltaBuilder
) -> AsyncGenerator[JSON, None]:
    declined = False
    async with aclosing(inference.generate_stream(prepared.request)) as run:
        async for valid_request, step in run:
            if step.finish_reason is not None:
                prompt_tokens = get_input_length(valid_request, step.token)
                deltas.token_counts = (
                    prompt_tokens,
                    count_generated_tokens(step.token, step.index),
                )
            if not prepared.forces_call:
                is_upstream = prepared.request.conversation is not None
                yield (
                    deltas.build_upstream_chunk(step)
                    if is_upstream
                    else deltas.build_content_chunk(step)
                )
                continue
            for chunk in deltas.build_call_chunks(step):
                yield chunk
            if declined := deltas.call_parser.name == tool_calls.NO_TOOL:
                break
    if declined and prepared.request_without_tools is not None:
        fallback = PreparedChat(prepared.request_without_tools)
        async with aclosing(_stream_chunks(inference, fallback, deltas)) as fallback_run:
            async for chunk in fallback_run:
                yield chunk


@dataclass
class _DeltaBuilder:
    """Builds one stream's chunks; keeps whether the role was sent and the call being written."""

    builder: ResponseBuilder
    request: ChatRequest
    token_counts: tuple[int | None, int] = (None, 0)
    call_parser: tool_calls.FunctionCallParser = field(
        default_factory=tool_calls.FunctionCallParser
    )
    _role_sent: bool = False
    _function_called: bool = False

    def build_content_chunk(self, step: GenerationStep) -> JSON:
        token = step.token
        content = "" if token.special else token.text
        return self._build_chunk(step, {"content": content})

    def build_upstream_chunk(self, step: GenerationStep) -> JSON:
        """Chunks of an upstream's call, which comes as one piece of text."""
        if not tool_calls.is_call(step.token.text):
            return self._build_chunk(step, {"content": step.token.text})
        call = tool_calls.parse_call(step.token.text)
        self._function_called = True
        return self._build_chunk(step, self._build_call_delta(call.name, call.arguments))

    def build_call_chunks(self, step: GenerationStep) -> list[JSON]:
        """Nothing until the name is known. TGI ends such a stream without a last chunk."""
        before = self.call_parser.name
        piece = self.call_parser.feed("" if step.token.special else step.token.text)
        name = self.call_parser.name
        if name == tool_calls.NO_TOOL:
            return []
        self._function_called = name is not None
        chunks = []
        if piece:
            delta = self._build_call_delta(name if before is None else None, piece)
            chunks.append(self._build_chunk(None, delta))
        if step.finish_reason is not None and not self.builder.strict:
            chunks.append(self._build_chunk(step, {}))
        return chunks

    def _build_call_delta(self, name: str | None, arguments: str) -> JSON:
        call: JSON = {"index": 0}
        if name is not None or self.builder.strict:
            call |= {"id": next_tool_call_id(self.request), "type": "function"}
        function: JSON = {"arguments": arguments}
        if name is not None or self.builder.strict:
            function = {"name": name, **function}
        return {"tool_calls": [{**call, "function": function}]}

    def _build_chunk(self, step: GenerationStep | None, delta: JSON) -> JSON:
        if self.builder.strict or not self._role_sent:
            delta = {"role": "assistant", **delta}
        self._role_sent, finish_reason = True, None
        if step is not None and step.finish_reason is not None:
            is_complete_call = self._function_called and step.finish_reason != "length"
            finish_reason = (
                _tool_call_finish_reason(self.builder)
                if is_complete_call
                else self.builder.to_finish_reason(step.finish_reason)
            )
        choice_logprobs = None
        if step is not None and self.request.logprobs and "content" in delta:
            choice_logprobs = build_logprobs([step.token])
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": choice_logprobs,
            "finish_reason": finish_reason,
        }
        return self.builder.build([choice], usage=None)
