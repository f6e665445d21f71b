"""What an upstream is asked, and the events it streams; a TGI's own route, or OpenAI's two."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import httpx2

from qcrd.records.teachers.token_counts import read_token_count
from services.teacher.engines.base import (
    EngineFinishReason,
    Token,
    ValidGenerateRequest,
)
from services.teacher.engines.upstream.grammar_forms import Dialect, build_grammar_options
from services.teacher.errors import (
    ContentFiltered,
    GenerationFailed,
    InputValidationError,
    Overloaded,
    PromptTooLong,
    TeacherError,
)

JSON = dict[str, Any]
DONE = b"[DONE]"
DRAIN_TIMEOUT_SECONDS = 1.0
"""What an upstream may still take to end an answer whose last token is known."""
TOO_LONG_WORDS = ("maximum context length", "maximum model length")
TOO_LONG_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})


def build_tgi_body(request: ValidGenerateRequest) -> JSON:
    """Neutral values are left out: TGI refuses some of them (`top_p` 1.0)."""
    sampling = {
        name: value for name, value in asdict(request.sampling).items() if value is not None
    }
    # TGI's native route has no such penalty; its OpenAI route makes another one of it.
    sampling.pop("presence_penalty", None)
    grammar = request.grammar
    parameters = {
        **sampling,
        "max_new_tokens": request.max_new_tokens,
        "stop": list(request.stop),
        "details": True,
        "top_n_tokens": request.top_n_tokens or None,
        "adapter_id": request.adapter_id,
        "grammar": None if grammar is None else {"type": grammar.kind, "value": grammar.value},
    }
    return {"inputs": request.prompt, "parameters": parameters}


def build_openai_body(
    request: ValidGenerateRequest, model: str, dialect: Dialect = "openai", *, n: int = 1
) -> JSON:
    """Stop strings go along: what is written after one is paid for, and a stream that is closed at
    one never tells its usage. Raises `InputValidationError` for a grammar it has no form for."""
    sampling = request.sampling
    body = {
        "model": model,
        "max_tokens": request.max_new_tokens,
        "temperature": sampling.temperature if sampling.do_sample else 0.0,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "repetition_penalty": sampling.repetition_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "presence_penalty": sampling.presence_penalty,
        # OpenAI's seeds are signed 64-bit.
        "seed": None if sampling.seed is None else sampling.seed % 2**63,
        "stop": list(request.stop) or None,
        "n": n if n > 1 else None,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.grammar is not None:
        is_chat = request.conversation is not None
        body |= build_grammar_options(request.grammar, dialect, is_chat=is_chat)
    if request.conversation is None:
        body |= {"prompt": request.prompt, "logprobs": request.top_n_tokens or None}
    else:
        body |= {
            "messages": [dict(message) for message in request.conversation.messages],
            "tools": [dict(tool) for tool in request.conversation.tools] or None,
            "logprobs": True if request.top_n_tokens else None,
            "top_logprobs": request.top_n_tokens or None,
        }
    return {name: value for name, value in body.items() if value is not None}


def ignore_done() -> None:
    """A TGI's own stream has no `[DONE]`."""


async def parse_sse(
    parts: AsyncIterator[bytes], on_done: Callable[[], None] = ignore_done
) -> AsyncGenerator[JSON, None]:
    """The JSON events of a stream, up to `[DONE]`, however the network cut it. Raises what the
    upstream says went wrong, as `TeacherError`.
    """
    buffer = b""
    async for part in parts:
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if (data := line[5:].strip()) == DONE:
                on_done()
                return
            yield _parse_event(data)
    if not buffer.startswith(b"data:"):
        return
    if buffer[5:].strip() == DONE:
        on_done()
    else:
        yield _parse_event(buffer[5:])


def _parse_event(data: bytes) -> JSON:
    try:
        # Of bytes, `json` would first guess the encoding.
        event = json.loads(data.decode())
    except ValueError as error:
        raise GenerationFailed(f"upstream sent an event that is no JSON: {data[:80]!r}") from error
    if not isinstance(event, dict):
        raise GenerationFailed(f"upstream sent an event that is no object: {data[:80]!r}")
    if message := event.get("error"):
        raise _parse_error(message, event.get("error_type"))
    return event


def _parse_error(message: str | JSON, error_type: str | None) -> TeacherError:
    """A TGI streams every refusal with status 200, a full queue too (its server.rs 476-506)."""
    if not isinstance(message, str):
        return parse_openai_error(message) or GenerationFailed(str(message.get("message", "")))
    if error_type == "overloaded":
        return Overloaded("Model is overloaded")
    if error_type == "validation":
        return InputValidationError(message.removeprefix(InputValidationError.PREFIX))
    return GenerationFailed(message.removeprefix(GenerationFailed.PREFIX))


def parse_openai_error(error: JSON) -> TeacherError | None:
    """What OpenAI's `error` object says of the request itself; None where its status decides."""
    reason, code = str(error.get("message", "")), str(error.get("code"))
    if "content_filter" in (code, error.get("type")):
        return ContentFiltered(reason)
    # vLLM tells it in words alone; llama.cpp's code is a number, its type names the error.
    codes = {code, str(error.get("type"))}
    if codes & TOO_LONG_CODES or any(words in reason for words in TOO_LONG_WORDS):
        return PromptTooLong(f"the prompt is too long: {reason}")
    return None


async def parse_tgi_stream(stream: AsyncIterator[JSON]) -> AsyncGenerator[Token, None]:
    async for event in stream:
        token = _parse_tgi_token(event["token"], event.get("top_tokens") or ())
        details = event.get("details")
        if details is None:
            yield token
            continue
        yield replace(
            token,
            finish_reason=parse_finish_reason(details.get("finish_reason")),
            generated_tokens=read_token_count(details.get("generated_tokens")),
            prompt_tokens=read_token_count(details.get("input_length")),
        )


def _parse_tgi_token(item: JSON, top: Sequence[JSON] = ()) -> Token:
    others = tuple(_parse_tgi_token(other) for other in top)
    return Token(
        item["id"], item["text"], item["logprob"], special=item["special"], top_tokens=others
    )


def parse_finish_reason(reason: str | None) -> EngineFinishReason | None:
    """TGI's and OpenAI's finish reasons; a stop string is matched here, not upstream."""
    if reason in ("eos_token", "stop", "tool_calls"):
        return "eos_token"
    if reason == "content_filter":
        return "content_filter"
    return "length" if reason == "length" else None


async def drain(parts: AsyncIterator[bytes]) -> None:
    """Read an answer to its end: only then its connection is not torn, but closed or kept."""
    with suppress(httpx2.HTTPError, TimeoutError):
        async with asyncio.timeout(DRAIN_TIMEOUT_SECONDS):
            async for _ in parts:
                pass
