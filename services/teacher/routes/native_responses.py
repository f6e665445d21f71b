"""The native routes' answers and streams, in TGI's shapes (TGI's lib.rs, server.rs 273-680)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.teacher import sse
from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.errors import IncompleteGeneration, TeacherError
from services.teacher.inference import wire
from services.teacher.inference.session import (
    GenerationResult,
    InferenceService,
    count_generated_tokens,
    get_input_length,
)
from services.teacher.inference.stopping import GenerationStep
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON, GenerateParameters


def body(answer: GenerationResult, parameters: GenerateParameters, *, full: bool = False) -> JSON:
    """`full`: with the prompt in front, unless the request says otherwise."""
    text = shown(answer.request, parameters, answer.text, full=full)
    if not (parameters.details or parameters.decoder_input_details):
        return {"generated_text": text}
    others = [
        {
            "generated_text": shown(other.request, parameters, other.text, full=full),
            **_details(other),
        }
        for other in answer.best_of_sequences
    ]
    details = _details(answer)
    if others:
        top = {"top_tokens": details.pop("top_tokens")} if "top_tokens" in details else {}
        details = {**details, "best_of_sequences": others, **top}
    return {"generated_text": text, "details": details}


def _details(answer: GenerationResult) -> JSON:
    return wire.build_details(
        answer.finish_reason,
        answer.tokens,
        generated_tokens=answer.generated_tokens,
        seed=answer.request.sampling.seed,
        top_n_tokens=answer.request.top_n_tokens,
        prefill=answer.prefill,
    )


def shown(
    generation: ValidGenerateRequest, parameters: GenerateParameters, text: str, *, full: bool
) -> str:
    asked = parameters.return_full_text
    return generation.prompt + text if (full if asked is None else asked) else text


async def events(
    sessions: InferenceService, ask: InferenceRequest, *, full: bool = False
) -> AsyncGenerator[bytes, None]:
    """The native stream. Errors become its last event, as in TGI the status is 200 by then."""
    try:
        async with aclosing(sessions.generate_stream(ask)) as run:
            async for generation, step in run:
                yield sse.format_event(_event(ask.parameters, generation, step, full=full))
    except IncompleteGeneration as error:
        yield sse.format_event(
            {"error": f"{error.message} stream", "error_type": f"{error.error_type}_stream"}
        )
    except TeacherError as error:
        yield sse.format_event(error.body())


def _event(
    parameters: GenerateParameters,
    generation: ValidGenerateRequest,
    step: GenerationStep,
    *,
    full: bool,
) -> JSON:
    text = details = None
    if step.finish_reason is not None:
        text = shown(generation, parameters, step.text, full=full)
        if parameters.details:
            details = {
                "finish_reason": step.finish_reason,
                "generated_tokens": count_generated_tokens(step.token, step.index),
                "seed": generation.sampling.seed,
                "input_length": get_input_length(generation, step.token),
            }
    return wire.build_stream_event(
        step.index,
        step.token,
        top_n_tokens=generation.top_n_tokens,
        generated_text=text,
        stream_details=details,
    )
