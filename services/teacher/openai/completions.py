"""POST /v1/completions: one generation per prompt (TGI's server.rs 715-1129)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.teacher import sse
from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.errors import BatchTooLarge, SuffixNotSupported, TeacherError
from services.teacher.inference.session import (
    GenerationResult,
    InferenceService,
    count_generated_tokens,
    get_input_length,
)
from services.teacher.inference.stopping import GenerationStep
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON
from services.teacher.openai.requests import CompletionRequest
from services.teacher.openai.responses import DONE, Shape, usage


def prepare(request: CompletionRequest, sessions: InferenceService) -> list[InferenceRequest]:
    """One ask per prompt. Raises `SuffixRefused`, `BatchTooLarge`."""
    if request.suffix is not None:
        raise SuffixNotSupported
    most = sessions.settings.max_client_batch_size
    if len(request.prompts) > most:
        raise BatchTooLarge(most)
    parameters = request.parameters(repetition_penalty=request.repetition_penalty, details=True)
    return [
        InferenceRequest(prompt, parameters, presence_penalty=request.presence_penalty)
        for prompt in request.prompts
    ]


def shape(sessions: InferenceService) -> Shape:
    model, strict = sessions.engine.info.model_id, sessions.settings.tgi_strict
    return Shape.new("text_completion", "cmpl", model, strict=strict)


async def answer(
    sessions: InferenceService, asks: list[InferenceRequest]
) -> tuple[JSON, list[GenerationResult]]:
    """The body, its choices in the order they were finished, and the answers behind it."""
    head, done = shape(sessions), []

    async def one(index: int, ask: InferenceRequest) -> None:
        done.append((index, await sessions.generate(ask)))

    try:
        async with asyncio.TaskGroup() as group:
            for index, ask in enumerate(asks):
                group.create_task(one(index, ask))
    except* TeacherError as errors:
        raise errors.exceptions[0] from None
    choices = [
        {
            "index": index,
            "text": each.text,
            "logprobs": None,
            "finish_reason": head.reason(each.reason),
        }
        for index, each in done
    ]
    answers = [each for _, each in done]
    counted = usage((each.input_length, each.generated) for each in answers)
    return head.body(choices, usage=counted), answers


async def events(
    sessions: InferenceService, asks: list[InferenceRequest], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of all prompts as they come, then `[DONE]`."""
    head = shape(sessions)
    counts: list[tuple[int | None, int]] = []
    try:
        async with aclosing(_merged(sessions, asks)) as run:
            async for index, generation, step in run:
                if step.finish_reason is not None:
                    read = get_input_length(generation, step.token)
                    counts.append((read, count_generated_tokens(step.token, step.index)))
                yield sse.format_event(_chunk(head, index, step, counts))
        if include_usage and not head.strict:
            yield sse.format_event(head.body([], usage=usage(counts)))
    except TeacherError as error:
        yield head.error(error)
    yield DONE


def _chunk(
    head: Shape, index: int, step: GenerationStep, counts: list[tuple[int | None, int]]
) -> JSON:
    """TGI has an empty reason until the last chunk, its own words there, and shows end tokens."""
    hidden = step.token.special and not head.strict
    choice: JSON = {
        "index": index,
        "text": "" if hidden else step.token.text,
        "logprobs": None,
        "finish_reason": "" if head.strict else None,
    }
    if step.finish_reason is None:
        return head.body([choice])
    choice["finish_reason"] = step.finish_reason if head.strict else head.reason(step.finish_reason)
    return head.body([choice], usage=usage(counts[-1:]))


Item = tuple[int, ValidGenerateRequest, GenerationStep] | TeacherError | None


async def _merged(
    sessions: InferenceService, asks: list[InferenceRequest]
) -> AsyncGenerator[tuple[int, ValidGenerateRequest, GenerationStep], None]:
    """The steps of all `asks`, each with its index. The first error ends them all."""
    inbox: asyncio.Queue[Item] = asyncio.Queue()

    async def one(index: int, ask: InferenceRequest) -> None:
        try:
            async with aclosing(sessions.generate_stream(ask)) as run:
                async for generation, step in run:
                    inbox.put_nowait((index, generation, step))
        except TeacherError as error:
            inbox.put_nowait(error)
        else:
            inbox.put_nowait(None)

    tasks = [asyncio.create_task(one(index, ask)) for index, ask in enumerate(asks)]
    try:
        left = len(tasks)
        while left:
            item = await inbox.get()
            if isinstance(item, TeacherError):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
