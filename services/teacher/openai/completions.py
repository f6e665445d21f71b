"""POST /v1/completions: one generation per prompt (TGI's server.rs 715-1129)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.teacher import sse
from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.errors import BatchTooLarge, SuffixNotSupported, TeacherError
from services.teacher.inference.session import Answer, Sessions, count, input_length
from services.teacher.inference.stopping import Step
from services.teacher.inference.validation import Ask
from services.teacher.inference.wire import JSON
from services.teacher.openai.requests import CompletionRequest
from services.teacher.openai.responses import DONE, Shape, usage


def prepare(request: CompletionRequest, sessions: Sessions) -> list[Ask]:
    """One ask per prompt. Raises `SuffixRefused`, `BatchTooLarge`."""
    if request.suffix is not None:
        raise SuffixNotSupported
    most = sessions.settings.max_client_batch_size
    if len(request.prompts) > most:
        raise BatchTooLarge(most)
    parameters = request.parameters(repetition_penalty=request.repetition_penalty, details=True)
    return [
        Ask(prompt, parameters, presence_penalty=request.presence_penalty)
        for prompt in request.prompts
    ]


def shape(sessions: Sessions) -> Shape:
    model, strict = sessions.engine.info.model_id, sessions.settings.tgi_strict
    return Shape.new("text_completion", "cmpl", model, strict=strict)


async def answer(sessions: Sessions, asks: list[Ask]) -> tuple[JSON, list[Answer]]:
    """The body, its choices in the order they were finished, and the answers behind it."""
    head, done = shape(sessions), []

    async def one(index: int, ask: Ask) -> None:
        done.append((index, await sessions.answer(ask)))

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
    sessions: Sessions, asks: list[Ask], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of all prompts as they come, then `[DONE]`."""
    head = shape(sessions)
    counts: list[tuple[int | None, int]] = []
    try:
        async with aclosing(_merged(sessions, asks)) as run:
            async for index, generation, step in run:
                if step.reason is not None:
                    read = input_length(generation, step.token)
                    counts.append((read, count(step.token, step.index)))
                yield sse.format_event(_chunk(head, index, step, counts))
        if include_usage and not head.strict:
            yield sse.format_event(head.body([], usage=usage(counts)))
    except TeacherError as error:
        yield head.error(error)
    yield DONE


def _chunk(head: Shape, index: int, step: Step, counts: list[tuple[int | None, int]]) -> JSON:
    """TGI has an empty reason until the last chunk, its own words there, and shows end tokens."""
    hidden = step.token.special and not head.strict
    choice: JSON = {
        "index": index,
        "text": "" if hidden else step.token.text,
        "logprobs": None,
        "finish_reason": "" if head.strict else None,
    }
    if step.reason is None:
        return head.body([choice])
    choice["finish_reason"] = step.reason if head.strict else head.reason(step.reason)
    return head.body([choice], usage=usage(counts[-1:]))


Item = tuple[int, ValidGenerateRequest, Step] | TeacherError | None


async def _merged(
    sessions: Sessions, asks: list[Ask]
) -> AsyncGenerator[tuple[int, ValidGenerateRequest, Step], None]:
    """The steps of all `asks`, each with its index. The first error ends them all."""
    inbox: asyncio.Queue[Item] = asyncio.Queue()

    async def one(index: int, ask: Ask) -> None:
        try:
            async with aclosing(sessions.stream(ask)) as run:
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
