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
from services.teacher.openai.chat_template import Prepared
from services.teacher.openai.requests import ChatRequest
from services.teacher.openai.responses import DONE, Shape, logprobs, usage


def shape(request: ChatRequest, sessions: InferenceService, kind: str) -> Shape:
    """TGI echoes any model name but its own two."""
    named = request.model not in (None, "tgi")
    model = request.model if named and request.model else sessions.engine.info.model_id
    return Shape.new(kind, "chatcmpl", model, strict=sessions.settings.tgi_strict)


async def answer(
    sessions: InferenceService, request: ChatRequest, prepared: Prepared
) -> tuple[JSON, GenerationResult]:
    """The body and the answer behind it. Raises `TeacherError`."""
    head = shape(request, sessions, "chat.completion")
    got = await sessions.generate(prepared.ask)
    call = None
    if prepared.forced:
        call = tool_calls.read(got.text)
        if call.name == tool_calls.DECLINED and prepared.plain is not None:
            call, got = None, await sessions.generate(prepared.plain)
    elif prepared.ask.conversation is not None:
        # An upstream makes its calls itself; one comes as one piece, perhaps behind some words.
        written = next((t.text for t in got.tokens if tool_calls.looks_like_call(t.text)), None)
        call = None if written is None else tool_calls.read(written)
    choice: JSON = {
        "index": 0,
        "message": _message(got, call, call_id(request), strict=head.strict),
        "logprobs": logprobs(got.tokens) if request.logprobs else None,
        "finish_reason": head.reason(got.finish_reason) if call is None else _called(head),
    }
    return head.body([choice], usage=usage([(got.input_length, got.generated_tokens)])), got


def _message(
    got: GenerationResult, call: tool_calls.Call | None, name: str, *, strict: bool
) -> JSON:
    if call is None:
        return {"role": "assistant", "content": got.text}
    function = {"description": None, "name": call.name, "arguments": call.arguments}
    calls = [{"id": name, "type": "function", "function": function}]
    # A message with a call has no key `content` in TGI, and a null one in OpenAI.
    content = {} if strict else {"content": None}
    return {"role": "assistant", **content, "tool_calls": calls}


def _called(head: Shape) -> str:
    return "stop" if head.strict else "tool_calls"


def call_id(request: ChatRequest) -> str:
    """Counted on from the history's calls where those are numbers, as in TGI."""
    used = [call.id for message in request.messages for call in message.tool_calls or ()]
    if all(each.isdecimal() for each in used):
        return str(len(used))
    return str(uuid.uuid4())


async def events(
    sessions: InferenceService, request: ChatRequest, prepared: Prepared
) -> AsyncGenerator[bytes, None]:
    """The chunks, then `[DONE]`, also after an error."""
    deltas = _Deltas(shape(request, sessions, "chat.completion.chunk"), request)
    try:
        async with aclosing(_chunks(sessions, prepared, deltas)) as run:
            async for chunk in run:
                yield sse.format_event(chunk)
        if request.stream_options.include_usage:
            yield sse.format_event(deltas.head.body([], usage=usage([deltas.counted])))
    except TeacherError as error:
        yield deltas.head.error(error)
    yield DONE


async def _chunks(
    sessions: InferenceService, prepared: Prepared, deltas: _Deltas
) -> AsyncGenerator[JSON, None]:
    declined = False
    async with aclosing(sessions.generate_stream(prepared.ask)) as run:
        async for generation, step in run:
            if step.finish_reason is not None:
                read = get_input_length(generation, step.token)
                deltas.counted = (read, count_generated_tokens(step.token, step.index))
            if not prepared.forced:
                native = prepared.ask.conversation is not None
                yield deltas.upstream(step) if native else deltas.words(step)
                continue
            for chunk in deltas.call(step):
                yield chunk
            if declined := deltas.calls.name == tool_calls.DECLINED:
                break
    if declined and prepared.plain is not None:
        again = Prepared(prepared.plain)
        async with aclosing(_chunks(sessions, again, deltas)) as run_plain:
            async for chunk in run_plain:
                yield chunk


@dataclass
class _Deltas:
    """One stream's chunks; it remembers whether a role was said and which call is being made."""

    head: Shape
    request: ChatRequest
    counted: tuple[int | None, int] = (None, 0)
    calls: tool_calls.CallStream = field(default_factory=tool_calls.CallStream)
    _begun: bool = False
    _called: bool = False

    def words(self, step: GenerationStep) -> JSON:
        token = step.token
        shown = "" if token.special else token.text
        return self._chunk(step, {"content": shown})

    def upstream(self, step: GenerationStep) -> JSON:
        """An upstream makes its calls itself; they come as one piece of text."""
        if not tool_calls.looks_like_call(step.token.text):
            return self._chunk(step, {"content": step.token.text})
        call = tool_calls.read(step.token.text)
        self._called = True
        return self._chunk(step, self._call(call.name, call.arguments))

    def call(self, step: GenerationStep) -> list[JSON]:
        """Nothing until the name is known. TGI ends such a stream without a last chunk."""
        before = self.calls.name
        piece = self.calls.feed("" if step.token.special else step.token.text)
        name = self.calls.name
        if name == tool_calls.DECLINED:
            return []
        self._called = name is not None
        chunks = []
        if piece:
            delta = self._call(name if before is None else None, piece)
            chunks.append(self._chunk(None, delta))
        if step.finish_reason is not None and not self.head.strict:
            chunks.append(self._chunk(step, {}))
        return chunks

    def _call(self, name: str | None, arguments: str) -> JSON:
        call: JSON = {"index": 0}
        if name is not None or self.head.strict:
            call |= {"id": call_id(self.request), "type": "function"}
        function: JSON = {"arguments": arguments}
        if name is not None or self.head.strict:
            function = {"name": name, **function}
        return {"tool_calls": [{**call, "function": function}]}

    def _chunk(self, step: GenerationStep | None, delta: JSON) -> JSON:
        if self.head.strict or not self._begun:
            delta = {"role": "assistant", **delta}
        self._begun, reason = True, None
        if step is not None and step.finish_reason is not None:
            complete = self._called and step.finish_reason != "length"
            reason = _called(self.head) if complete else self.head.reason(step.finish_reason)
        shown = None
        if step is not None and self.request.logprobs and "content" in delta:
            shown = logprobs([step.token])
        choice = {"index": 0, "delta": delta, "logprobs": shown, "finish_reason": reason}
        return self.head.body([choice], usage=None)
