"""The stream of a chat completion: chunks of each choice as they come (TGI's chat.rs)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from services.teacher import sse
from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.errors import TeacherError
from services.teacher.inference.gathering import merge_streams
from services.teacher.inference.results import TokenCounts, count_tokens
from services.teacher.inference.session import InferenceService
from services.teacher.inference.stopping import GenerationStep
from services.teacher.inference.wire import JSON
from services.teacher.openai import tool_calls
from services.teacher.openai.chat import (
    get_call_finish_reason,
    make_response_builder,
    next_tool_call_id,
)
from services.teacher.openai.chat_template import PreparedChat
from services.teacher.openai.requests import ChatRequest
from services.teacher.openai.responses import (
    DONE_EVENT,
    ResponseBuilder,
    build_logprobs,
    build_usage,
)

NOTHING_COUNTED = TokenCounts(None, 0)


async def stream_chat_completion(
    inference: InferenceService, request: ChatRequest, prepared: PreparedChat
) -> AsyncGenerator[bytes, None]:
    """The chunks, then `[DONE]`, also after an error."""
    builder = make_response_builder(request, inference, "chat.completion.chunk")
    choices = [DeltaBuilder(builder, request, index) for index in range(request.n or 1)]
    try:
        async with aclosing(_stream_chunks(inference, prepared, choices)) as run:
            async for chunk in run:
                yield sse.format_event(chunk)
        if request.stream_options.include_usage:
            usage = build_usage(deltas.token_counts for deltas in choices)
            yield sse.format_event(builder.build([], usage=usage))
    except TeacherError as error:
        yield builder.build_error_event(error)
    yield DONE_EVENT


async def _stream_chunks(
    inference: InferenceService, prepared: PreparedChat, choices: Sequence[DeltaBuilder]
) -> AsyncGenerator[JSON, None]:
    if prepared.forces_call:
        runs = [
            _stream_call(inference, prepared.for_choice(deltas.index), deltas) for deltas in choices
        ]
        async with aclosing(merge_streams(runs)) as merged:
            async for _, chunk in merged:
                yield chunk
        return
    is_upstream = prepared.request.conversation is not None
    async with aclosing(inference.stream_choices(prepared.request, len(choices))) as run:
        async for choice in run:
            deltas, step = choices[choice.index], choice.step
            if step.finish_reason is not None:
                deltas.token_counts = choice.token_counts
            if is_upstream:
                for chunk in deltas.build_upstream_chunks(step):
                    yield chunk
            else:
                yield deltas.build_content_chunk(step)


async def _stream_call(
    inference: InferenceService, prepared: PreparedChat, deltas: DeltaBuilder
) -> AsyncGenerator[JSON, None]:
    """One choice's call, or its answer in words where the model declines every function."""
    async with aclosing(inference.generate_stream(prepared.request)) as run:
        async for valid_request, step in run:
            deltas.record_counts(valid_request, step)
            for chunk in deltas.build_call_chunks(step):
                yield chunk
            if deltas.call_parser.name == tool_calls.NO_TOOL:
                break
    if deltas.call_parser.name == tool_calls.NO_TOOL and prepared.request_without_tools is not None:
        async with aclosing(inference.generate_stream(prepared.request_without_tools)) as run:
            async for valid_request, step in run:
                deltas.record_counts(valid_request, step)
                yield deltas.build_content_chunk(step)


@dataclass
class DeltaBuilder:
    """Builds one choice's chunks; keeps whether the role was sent and the call being written."""

    builder: ResponseBuilder
    request: ChatRequest
    index: int = 0
    token_counts: TokenCounts = NOTHING_COUNTED
    call_parser: tool_calls.FunctionCallParser = field(
        default_factory=tool_calls.FunctionCallParser
    )
    _role_sent: bool = False
    _function_called: bool = False

    def record_counts(self, request: ValidGenerateRequest, step: GenerationStep) -> None:
        """What the choice has cost, known with its last token."""
        if step.finish_reason is not None:
            self.token_counts = count_tokens(request, step.token, step.index, self.index)

    def build_content_chunk(self, step: GenerationStep) -> JSON:
        token = step.token
        content = "" if token.special else token.text
        return self._build_chunk(step, {"content": content})

    def build_upstream_chunks(self, step: GenerationStep) -> list[JSON]:
        """An upstream's call comes as one piece of text; its reasoning is no content. Strict mode
        knows no reasoning and leaves it out, but for a chunk that gives a reason to finish."""
        text = step.token.text
        if step.token.is_reasoning and self.builder.strict:
            is_last = step.finish_reason is not None
            return [self._build_chunk(step, {"content": ""})] if is_last else []
        if step.token.is_reasoning:
            return [self._build_chunk(step, {"reasoning_content": text})]
        if not tool_calls.is_call(text):
            return [self._build_chunk(step, {"content": text})]
        call = tool_calls.parse_call(text)
        self._function_called = True
        return [self._build_chunk(step, self._build_call_delta(call.name, call.arguments))]

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
                get_call_finish_reason(self.builder)
                if is_complete_call
                else self.builder.to_finish_reason(step.finish_reason)
            )
        choice_logprobs = None
        if step is not None and self.request.logprobs and "content" in delta:
            choice_logprobs = build_logprobs([step.token])
        choice = {
            "index": self.index,
            "delta": delta,
            "logprobs": choice_logprobs,
            "finish_reason": finish_reason,
        }
        return self.builder.build([choice], usage=None)
