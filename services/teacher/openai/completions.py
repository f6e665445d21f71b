"""POST /v1/completions: generations of each prompt (TGI's server.rs 715-1129; `n` is ours)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from itertools import chain

from services.teacher import sse
from services.teacher.errors import (
    BatchTooLarge,
    InputValidationError,
    SuffixNotSupported,
    TeacherError,
)
from services.teacher.inference.gathering import gather_results, merge_streams
from services.teacher.inference.results import GenerationResult, TokenCounts
from services.teacher.inference.session import InferenceService
from services.teacher.inference.stopping import GenerationStep
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON
from services.teacher.openai.choices import check_choices
from services.teacher.openai.requests import CompletionRequest
from services.teacher.openai.responses import DONE_EVENT, ResponseBuilder, build_usage


def build_requests(
    request: CompletionRequest, inference: InferenceService
) -> list[InferenceRequest]:
    """One inference request per prompt. Raises `SuffixNotSupported`, `BatchTooLarge`,
    `InputValidationError`."""
    if request.suffix is not None:
        raise SuffixNotSupported
    max_batch_size = inference.settings.max_client_batch_size
    if len(request.prompts) > max_batch_size:
        raise BatchTooLarge(max_batch_size)
    check_choices(request.n, inference, prompts=len(request.prompts))
    _check_unsupported(request)
    parameters = request.to_parameters(
        repetition_penalty=request.repetition_penalty, grammar=request.grammar, details=True
    )
    return [
        InferenceRequest(prompt, parameters, presence_penalty=request.presence_penalty)
        for prompt in request.prompts
    ]


def _check_unsupported(request: CompletionRequest) -> None:
    """Refuse by name what is not done here, unless its value changes nothing."""
    if request.best_of not in (None, 1, request.n):
        raise InputValidationError(
            "`best_of` is not supported on this route: leave it out, or ask for `n` choices"
        )
    if request.echo:
        raise InputValidationError("`echo` is not supported: put the prompt in front yourself")
    if request.logprobs is not None:
        raise InputValidationError(
            "`logprobs` is not supported on this route: POST /generate has them in its `details`"
        )


def make_response_builder(inference: InferenceService) -> ResponseBuilder:
    model, strict = inference.engine.info.model_id, inference.settings.tgi_strict
    return ResponseBuilder.create("text_completion", "cmpl", model, strict=strict)


async def create_completion(
    inference: InferenceService, requests: list[InferenceRequest], n: int
) -> tuple[JSON, list[GenerationResult]]:
    """The body and its generation results; prompts come in the order they were finished, each
    with its `n` choices in theirs."""
    builder = make_response_builder(inference)
    finished: list[tuple[int, GenerationResult]] = []

    async def generate_choices(place: int, request: InferenceRequest) -> None:
        for result in await inference.generate_choices(request, n):
            finished.append((place * n + result.index, result))

    await gather_results(generate_choices(place, ask) for place, ask in enumerate(requests))
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
    total_usage = build_usage(each.token_counts for each in results)
    return builder.build(choices, usage=total_usage), results


async def stream_completion(
    inference: InferenceService, requests: list[InferenceRequest], n: int, *, include_usage: bool
) -> AsyncGenerator[bytes, None]:
    """The chunks of all prompts' choices as they come, then `[DONE]`."""
    builder = make_response_builder(inference)
    token_counts: list[list[TokenCounts]] = [[] for _ in requests]
    runs = [inference.stream_choices(request, n) for request in requests]
    try:
        async with aclosing(merge_streams(runs)) as merged:
            async for place, choice in merged:
                if choice.step.finish_reason is not None:
                    token_counts[place].append(choice.token_counts)
                is_prompt_finished = len(token_counts[place]) == n
                usage = build_usage(token_counts[place]) if is_prompt_finished else None
                yield sse.format_event(
                    _build_chunk(builder, place * n + choice.index, choice.step, usage)
                )
        if include_usage and not builder.strict:
            yield sse.format_event(builder.build([], usage=build_usage(chain(*token_counts))))
    except TeacherError as error:
        yield builder.build_error_event(error)
    yield DONE_EVENT


def _build_chunk(
    builder: ResponseBuilder, index: int, step: GenerationStep, usage: JSON | None
) -> JSON:
    """TGI has an empty reason until the last chunk, its own words there, and shows end tokens.

    A prompt's usage comes with the last chunk of its last choice.
    """
    hidden = step.token.special and not builder.strict
    choice: JSON = {
        "index": index,
        "text": "" if hidden else step.token.text,
        "logprobs": None,
        "finish_reason": "" if builder.strict else None,
    }
    if step.finish_reason is not None:
        choice["finish_reason"] = (
            step.finish_reason if builder.strict else builder.to_finish_reason(step.finish_reason)
        )
    return builder.build([choice], **({} if usage is None else {"usage": usage}))
