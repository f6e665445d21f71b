"""A student's chat answers: the label is the content, the rationale `reasoning_content`, which is
where clients look for a model's thoughts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from services.teacher import sse
from services.teacher.engines.base import Token
from services.teacher.errors import TeacherError
from services.teacher.inference.session import (
    GenerationResult,
    InferenceService,
    count_generated_tokens,
    get_input_length,
)
from services.teacher.inference.stopping import FinishReason, GenerationStep
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON
from services.teacher.openai.chat import make_response_builder
from services.teacher.openai.requests import ChatRequest
from services.teacher.openai.responses import (
    DONE_EVENT,
    ResponseBuilder,
    build_logprobs,
    build_usage,
)
from services.teacher.students.prompting import Plan

T = TypeVar("T")
Counts = list[tuple[int | None, int]]


async def answer(
    sessions: InferenceService, request: ChatRequest, plans: Sequence[Plan]
) -> tuple[JSON, list[GenerationResult]]:
    """The body and the answers behind it. Raises `TeacherError`."""
    head = make_response_builder(request, sessions, "chat.completion")
    made = await _all([_both(sessions, plan) for plan in plans])
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", **_message(plan, *got)},
            "logprobs": build_logprobs(got[0].tokens) if request.logprobs else None,
            "finish_reason": head.to_finish_reason(got[0].finish_reason),
        }
        for index, (plan, got) in enumerate(zip(plans, made, strict=True))
    ]
    answers = [each for got in made for each in got]
    counted = build_usage((each.input_length, each.generated_tokens) for each in answers)
    return head.build(choices, usage=counted), answers


async def _both(sessions: InferenceService, plan: Plan) -> list[GenerationResult]:
    asks = [plan.label] if plan.rationale is None else [plan.label, plan.rationale]
    return await _all([sessions.generate(ask) for ask in asks])


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """What each returns, in order. Raises the first one's `TeacherError`."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except* TeacherError as errors:
        raise _first(errors) from None
    return [task.result() for task in tasks]


def _first(errors: ExceptionGroup[TeacherError]) -> TeacherError:
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, ExceptionGroup) else inner


def _message(plan: Plan, said: GenerationResult, explained: GenerationResult | None = None) -> JSON:
    before, label = plan.manner.split_output(said.text)
    rationale = before if explained is None else explained.text.strip()
    return {"content": label, **({"reasoning_content": rationale} if plan.explain else {})}


async def events(
    sessions: InferenceService, request: ChatRequest, plans: Sequence[Plan]
) -> AsyncGenerator[bytes, None]:
    """One choice after the other, then `[DONE]`, also after an error."""
    head = make_response_builder(request, sessions, "chat.completion.chunk")
    counts: Counts = []
    try:
        for index, plan in enumerate(plans):
            yield _chunk(head, index, {"role": "assistant", "content": ""})
            async with aclosing(_deltas(sessions, plan, counts)) as run:
                async for delta, token, reason in run:
                    shown = build_logprobs([token]) if token and request.logprobs else None
                    yield _chunk(
                        head, index, delta, shown, reason and head.to_finish_reason(reason)
                    )
        if request.stream_options.include_usage:
            yield sse.format_event(head.build([], usage=build_usage(counts)))
    except TeacherError as error:
        yield head.build_error_event(error)
    yield DONE_EVENT


def _chunk(
    head: ResponseBuilder,
    index: int,
    delta: JSON,
    shown: JSON | None = None,
    reason: str | None = None,
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": shown, "finish_reason": reason}
    return sse.format_event(head.build([choice], usage=None))


Delta = tuple[JSON, Token | None, FinishReason | None]


async def _deltas(
    sessions: InferenceService, plan: Plan, counts: Counts
) -> AsyncGenerator[Delta, None]:
    """The rationale where it is shown, then the label; the last one, empty, has the reason."""
    if plan.manner.joined:
        # Which mark is the last one, and so where the label begins, is known at the end only.
        whole = await sessions.generate(plan.label)
        counts.append((whole.input_length, whole.generated_tokens))
        for name, text in reversed(_message(plan, whole).items()):
            yield {name: text}, None, None
        yield {}, None, whole.finish_reason
        return
    reason: FinishReason | None = None
    for name, ask in (("reasoning_content", plan.rationale), ("content", plan.label)):
        if ask is not None:
            async with aclosing(_words(sessions, ask, counts)) as run:
                async for text, step in run:
                    yield {name: text}, step.token if name == "content" else None, None
                    reason = step.finish_reason
    yield {}, None, reason


async def _words(
    sessions: InferenceService, ask: InferenceRequest, counts: Counts
) -> AsyncGenerator[tuple[str, GenerationStep], None]:
    words = Trimmed()
    async with aclosing(sessions.generate_stream(ask)) as run:
        async for generation, step in run:
            if step.finish_reason is not None:
                counts.append(
                    (
                        get_input_length(generation, step.token),
                        count_generated_tokens(step.token, step.index),
                    )
                )
            yield words.feed("" if step.token.special else step.token.text), step


class Trimmed:
    """A text in pieces, without the whitespace around it: together they are the stripped text."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def feed(self, piece: str) -> str:
        text = self._held + piece if self._begun else piece.lstrip()
        shown = text.rstrip()
        self._held = text[len(shown) :]
        self._begun = self._begun or bool(shown)
        return shown
