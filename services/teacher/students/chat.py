"""A student's chat responses: the label is the content, the rationale `reasoning_content`, the
field in which clients look for a model's reasoning."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from services.teacher import sse
from services.teacher.engines.base import Token
from services.teacher.errors import TeacherError
from services.teacher.inference.gathering import gather_results
from services.teacher.inference.results import GenerationResult, TokenCounts, count_tokens
from services.teacher.inference.session import InferenceService
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
from services.teacher.students.choosing import AnswerChooser, ChosenAnswer
from services.teacher.students.prompting import ChoiceRequests


async def create_chat_completion(
    inference: InferenceService,
    request: ChatRequest,
    choice_requests: Sequence[ChoiceRequests],
    chooser: AnswerChooser,
) -> tuple[JSON, list[GenerationResult]]:
    """The response's body and its generation results. Raises `TeacherError`."""
    builder = make_response_builder(request, inference, "chat.completion")
    chosen = await gather_results(
        [_generate_choice(inference, choice, chooser) for choice in choice_requests]
    )
    choices = [
        {
            "index": index,
            "message": {
                "role": "assistant",
                **_build_message(plan, answer.result, answer.rationale),
            },
            "logprobs": build_logprobs(answer.result.tokens) if request.logprobs else None,
            "finish_reason": builder.to_finish_reason(answer.result.finish_reason),
            **answer.details,
        }
        for index, (plan, answer) in enumerate(zip(choice_requests, chosen, strict=True))
    ]
    all_results = [result for answer in chosen for result in answer.all_results]
    total_usage = build_usage(each.token_counts for each in all_results)
    return builder.build(choices, usage=total_usage), all_results


async def _generate_choice(
    inference: InferenceService, choice: ChoiceRequests, chooser: AnswerChooser
) -> ChosenAnswer:
    if choice.selection is not None:
        count = choice.selection.count
        requests = [choice.with_seed(index).label for index in range(count)]
        results = await gather_results([inference.generate(request) for request in requests])
        return await chooser.choose(choice, results)
    requests = [choice.label] if choice.rationale is None else [choice.label, choice.rationale]
    result, *rationales = await gather_results([inference.generate(each) for each in requests])
    details = chooser.describe_doubt(choice, result.tokens)
    return ChosenAnswer(result, details, rationales[0] if rationales else None)


def _build_message(
    choice: ChoiceRequests,
    label_result: GenerationResult,
    rationale_result: GenerationResult | None = None,
) -> JSON:
    inline_rationale, label = choice.prompt_format.split_output(
        label_result.text, is_cut=label_result.finish_reason == "length"
    )
    rationale = inline_rationale if rationale_result is None else rationale_result.text.strip()
    return {"content": label, **({"reasoning_content": rationale} if choice.show_rationale else {})}


async def stream_chat_completion(
    inference: InferenceService,
    request: ChatRequest,
    choice_requests: Sequence[ChoiceRequests],
    chooser: AnswerChooser,
) -> AsyncGenerator[bytes, None]:
    """One choice after the other, then `[DONE]`, also after an error."""
    builder = make_response_builder(request, inference, "chat.completion.chunk")
    token_counts: list[TokenCounts] = []
    try:
        for index, choice in enumerate(choice_requests):
            yield _build_chunk(builder, index, {"role": "assistant", "content": ""})
            said: list[Token] = []
            async with aclosing(_stream_deltas(inference, choice, token_counts, said)) as run:
                async for delta, token, finish_reason in run:
                    token_logprobs = build_logprobs([token]) if token and request.logprobs else None
                    yield _build_chunk(
                        builder,
                        index,
                        delta,
                        token_logprobs,
                        finish_reason and builder.to_finish_reason(finish_reason),
                        chooser.describe_doubt(choice, said) if finish_reason else {},
                    )
        if request.stream_options.include_usage:
            yield sse.format_event(builder.build([], usage=build_usage(token_counts)))
    except TeacherError as error:
        yield builder.build_error_event(error)
    yield DONE_EVENT


def _build_chunk(
    builder: ResponseBuilder,
    index: int,
    delta: JSON,
    token_logprobs: JSON | None = None,
    finish_reason: str | None = None,
    details: JSON | None = None,
) -> bytes:
    choice = {
        "index": index,
        "delta": delta,
        "logprobs": token_logprobs,
        "finish_reason": finish_reason,
        **(details or {}),
    }
    return sse.format_event(builder.build([choice], usage=None))


Delta = tuple[JSON, Token | None, FinishReason | None]


async def _stream_deltas(
    inference: InferenceService,
    choice: ChoiceRequests,
    token_counts: list[TokenCounts],
    said: list[Token],
) -> AsyncGenerator[Delta, None]:
    """The rationale where it is shown, then the label; the last chunk has the finish reason. `said`
    gets the tokens of the output with the label."""
    if choice.prompt_format.joined:
        # Which mark is the last one, and so where the label begins, is known at the end only.
        result = await inference.generate(choice.label)
        token_counts.append(result.token_counts)
        said += result.tokens
        for name, text in reversed(_build_message(choice, result).items()):
            yield {name: text}, None, None
        yield {}, None, result.finish_reason
        return
    finish_reason: FinishReason | None = None
    for name, request in (("reasoning_content", choice.rationale), ("content", choice.label)):
        if request is not None:
            async with aclosing(_stream_text(inference, request, token_counts)) as run:
                async for text, step in run:
                    if name == "content":
                        said.append(step.token)
                    yield {name: text}, step.token if name == "content" else None, None
                    finish_reason = step.finish_reason
    yield {}, None, finish_reason


async def _stream_text(
    inference: InferenceService, request: InferenceRequest, token_counts: list[TokenCounts]
) -> AsyncGenerator[tuple[str, GenerationStep], None]:
    stripper = StreamStripper()
    async with aclosing(inference.generate_stream(request)) as run:
        async for valid_request, step in run:
            if step.finish_reason is not None:
                token_counts.append(count_tokens(valid_request, step.token, step.index))
            yield stripper.feed("" if step.token.special else step.token.text), step


class StreamStripper:
    """A text in pieces, without the whitespace around it: together they are the stripped text."""

    def __init__(self) -> None:
        self._pending_whitespace = ""
        self._started = False

    def feed(self, piece: str) -> str:
        text = self._pending_whitespace + piece if self._started else piece.lstrip()
        stripped = text.rstrip()
        self._pending_whitespace = text[len(stripped) :]
        self._started = self._started or bool(stripped)
        return stripped
