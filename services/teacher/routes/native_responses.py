"""Responses and streams of the native routes, in TGI's shapes (TGI's lib.rs, server.rs 273-680)."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.teacher import sse
from services.teacher.engines.base import ValidGenerateRequest
from services.teacher.errors import IncompleteGeneration, TeacherError
from services.teacher.inference import wire
from services.teacher.inference.results import (
    GenerationResult,
    count_generated_tokens,
    get_input_length,
)
from services.teacher.inference.session import InferenceService
from services.teacher.inference.stopping import GenerationStep
from services.teacher.inference.validation import InferenceRequest
from services.teacher.inference.wire import JSON, GenerateParameters


def build_response_body(
    result: GenerationResult, parameters: GenerateParameters, *, full_text_default: bool = False
) -> JSON:
    """`full`: with the prompt in front, unless the request says otherwise."""
    text = apply_full_text(
        result.request, parameters, result.text, full_text_default=full_text_default
    )
    if not (parameters.details or parameters.decoder_input_details):
        return {"generated_text": text}
    best_of_sequences = [
        {
            "generated_text": apply_full_text(
                other.request, parameters, other.text, full_text_default=full_text_default
            ),
            **_build_details(other),
        }
        for other in result.best_of_sequences
    ]
    details = _build_details(result)
    if best_of_sequences:
        top = {"top_tokens": details.pop("top_tokens")} if "top_tokens" in details else {}
        details = {**details, "best_of_sequences": best_of_sequences, **top}
    return {"generated_text": text, "details": details}


def _build_details(result: GenerationResult) -> JSON:
    return wire.build_details(
        result.finish_reason,
        result.tokens,
        generated_tokens=result.generated_tokens,
        seed=result.request.sampling.seed,
        top_n_tokens=result.request.top_n_tokens,
        prefill=result.prefill,
        estimated=result.counts_estimated,
    )


def apply_full_text(
    request: ValidGenerateRequest,
    parameters: GenerateParameters,
    text: str,
    *,
    full_text_default: bool,
) -> str:
    return_full_text = parameters.return_full_text
    return (
        request.prompt + text
        if (full_text_default if return_full_text is None else return_full_text)
        else text
    )


async def stream_events(
    inference: InferenceService, request: InferenceRequest, *, full_text_default: bool = False
) -> AsyncGenerator[bytes, None]:
    """The native stream. Errors become its last event, as in TGI the status is 200 by then."""
    try:
        async with aclosing(inference.generate_stream(request)) as run:
            async for valid_request, step in run:
                yield sse.format_event(
                    _build_event(
                        request.parameters, valid_request, step, full_text_default=full_text_default
                    )
                )
    except IncompleteGeneration as error:
        yield sse.format_event(
            {"error": f"{error.message} stream", "error_type": f"{error.error_type}_stream"}
        )
    except TeacherError as error:
        yield sse.format_event(error.body())


def _build_event(
    parameters: GenerateParameters,
    request: ValidGenerateRequest,
    step: GenerationStep,
    *,
    full_text_default: bool,
) -> JSON:
    text = details = None
    if step.finish_reason is not None:
        text = apply_full_text(request, parameters, step.text, full_text_default=full_text_default)
        if parameters.details:
            details = {
                "finish_reason": step.finish_reason,
                "generated_tokens": count_generated_tokens(step.token, step.index),
                "seed": request.sampling.seed,
                "input_length": get_input_length(request, step.token),
                **({"estimated": True} if step.token.counts_estimated else {}),
            }
    return wire.build_stream_event(
        step.index,
        step.token,
        top_n_tokens=request.top_n_tokens,
        generated_text=text,
        stream_details=details,
    )
