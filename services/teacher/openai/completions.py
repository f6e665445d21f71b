"""POST /v1/completions: one generation per prompt (TGI's server.rs 715-1129)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.teacher import sse
from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.errors import BatchTooLarge, SuffixNotSupported, TeacherError
from services.teacher.inference.gathering import gather_results
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
from services.teacher.openai.responses import DONE_EVENT, ResponseBuilder, build_usage


def build_requests(
    request: CompletionRequest, inference: InferenceService
) -> list[InferenceRequest]:
    """One inference request per prompt. Raises `SuffixNotSupported`, `BatchTooLarge`."""
    if request.suffix is not None:
        raise SuffixNotSupported
    max_batch_size = inference.settings.max_client_batch_size
    if len(request.prompts) > max_batch_size:
        raise BatchTooLarge(max_batch_size)
    parameters = request.to_parameters(repetition_penalty=request.repetition_penalty, details=True)
    return [
        InferenceRequest(prompt, parameters, presence_penalty=request.presence_penalty)
        for prompt in request.prompts
    ]


def make_response_builder(inference: InferenceService) -> ResponseBuilder:
    model, strict = inference.engine.info.model_id, inference.settings.tgi_strict
    return ResponseBuilder.create("text_completion", "cmpl", model, strict=strict)


async def create_completion(
    inference: InferenceService, requests: list[InferenceRequest]
) -> tuple[JSON, list[GenerationResult]]:
    """The body, its choices in the order they were finished, and their generation results."""
    builder, finished = make_response_builder(inference), []

    async def generate_choice(index: int, request: InferenceRequest) -> None:
        finished.append((index, await inference.generate(request)))

    await gather_results(generate_choice(index, ask) for index, ask in enumerate(requests))
    choices = [
        {
            "index": index,
            "text": result.text,
            "logprobs": None,
            "finish_reason": builder.to_finish_reason(result.finish_reason),
        }
        for index, result in finished
    ]
    results = [each for _, each in finished]
    total_usage = build_usage((each.input_length, each.generated_tokens) for each in results)
    return builder.build(choices, usage=total_usage), results


async def stream_completion(
    inference: InferenceService, requests: list[InferenceRequest], *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of all prompts as they come, then `[DONE]`."""
    builder = make_response_builder(inference)
    token_counts: list[tuple[int | None, int]] = []
    try:
        async with aclosing(_merge_streams(inference, requests)) as run:
            async for index, valid_request, step in run:
                if step.finish_reason is not None:
                    prompt_tokens = get_input_length(valid_request, step.token)
                    token_counts.append(
                        (prompt_tokens, count_generated_tokens(step.token, step.index))
                    )
                yield sse.format_event(_build_chunk(builder, index, step, token_counts))
        if include_usage and not builder.strict:
            yield sse.format_event(builder.build([], usage=build_usage(token_counts)))
    except TeacherError as error:
        yield builder.build_error_event(error)
    yield DONE_EVENT


def _build_chunk(
    builder: ResponseBuilder,
    index: int,
    step: GenerationStep,
    token_counts: list[tuple[int | None, int]],
) -> JSON:
    """TGI has an empty reason until the last chunk, its own words there, and shows end tokens."""
    hidden = step.token.special and not builder.strict
    choice: JSON = {
        "index": index,
        "text": "" if hidden else step.token.text,
        "logprobs": None,
        "finish_reason": "" if builder.strict else None,
    }
    if step.finish_reason is None:
        return builder.build([choice])
    choice["finish_reason"] = (
        step.finish_reason if builder.strict else builder.to_finish_reason(step.finish_reason)
    )
    return builder.build([choice], usage=build_usage(token_counts[-1:]))


StreamItem = tuple[int, ValidGenerateRequest, GenerationStep] | TeacherError | None


async def _merge_streams(
    inference: InferenceService, requests: list[InferenceRequest]
) -> AsyncGenerator[tuple[int, ValidGenerateRequest, GenerationStep], None]:
    """The steps of all `requests`, each with its index. The first error ends them all."""
    items: asyncio.Queue[StreamItem] = asyncio.Queue()

    async def stream_choice(index: int, request: InferenceRequest) -> None:
        try:
            async with aclosing(inference.generate_stream(request)) as run:
                async for valid_request, step in run:
                    items.put_nowait((index, valid_request, step))
        except TeacherError as error:
            items.put_nowait(error)
        else:
            items.put_nowait(None)

    tasks = [asyncio.create_task(stream_choice(index, ask)) for index, ask in enumerate(requests)]
    try:
        unfinished = len(tasks)
        while unfinished:
            item = await items.get()
            if isinstance(item, TeacherError):
                raise item
            if item is None:
                unfinished -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
