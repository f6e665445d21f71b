"""What an upstream is asked and what it streams: a TGI's own route, or OpenAI's two."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from services.teacher.engines.base import (
    UNKNOWN_TOKEN_ID,
    EngineFinishReason,
    Token,
    ValidGenerateRequest,
)
from services.teacher.errors import GenerationFailed, InputValidationError, Overloaded, TeacherError

JSON = dict[str, Any]
STOP_WINDOW = 256
"""Characters kept to find a stop string that spans chunks."""


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


def build_openai_body(request: ValidGenerateRequest, model: str) -> JSON:
    """Stop strings stay here: OpenAI's servers cut them from the text, TGI keeps them."""
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
        "stream": True,
        "stream_options": {"include_usage": True},
    }
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


async def parse_sse(parts: AsyncIterator[bytes]) -> AsyncGenerator[JSON, None]:
    """The JSON events of a stream, up to `[DONE]`, however the network cut it. Raises what the
    upstream says went wrong, as `TeacherError`.
    """
    buffer = b""
    async for part in parts:
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            if (data := line[5:].strip()) == b"[DONE]":
                return
            yield _parse_event(data)
    if buffer.startswith(b"data:") and buffer[5:].strip() != b"[DONE]":
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
        return GenerationFailed(str(message.get("message", "")))
    if error_type == "overloaded":
        return Overloaded("Model is overloaded")
    if error_type == "validation":
        return InputValidationError(message.removeprefix(InputValidationError.PREFIX))
    return GenerationFailed(message.removeprefix(GenerationFailed.PREFIX))


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
            generated_tokens=details.get("generated_tokens"),
            prompt_tokens=details.get("input_length"),
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
    return "length" if reason == "length" else None


@dataclass
class _PartialFunctionCall:
    """A function call that arrives in pieces."""

    name: str = ""
    arguments: str = ""

    def to_text(self) -> str:
        """As a model behind TGI's own grammar would write it."""
        try:
            arguments = json.loads(self.arguments or "{}")
        except ValueError as error:
            raise GenerationFailed("upstream called a function with arguments not JSON") from error
        return json.dumps({"function": {"_name": self.name, **arguments}}, ensure_ascii=False)


@dataclass
class OpenAIStreamParser:
    """A chunk counts as one token unless the upstream counts itself, in the usage it sends last.

    The last chunk is held back for that: the one that gives a reason, or the `max_new_tokens`th.
    The end of the model is a token without text.
    """

    stop: tuple[str, ...]
    max_new_tokens: int
    token_count: int = 0
    pending: Token | None = None
    recent_text: str = ""
    finish_reason: EngineFinishReason | None = None
    usage: JSON = field(default_factory=dict)
    function_call: _PartialFunctionCall | None = None

    async def parse_stream(self, stream: AsyncIterator[JSON]) -> AsyncGenerator[Token, None]:
        async for event in stream:
            self.usage = event.get("usage") or self.usage
            for choice in event.get("choices") or ():
                self.finish_reason = (
                    parse_finish_reason(choice.get("finish_reason")) or self.finish_reason
                )
                token = self._parse_choice(choice)
                if token is None:
                    continue
                if self.pending is not None:
                    yield self.pending
                self.token_count += 1
                is_last = self.finish_reason is not None or self.token_count == self.max_new_tokens
                self.pending = token if is_last else None
                if not is_last:
                    yield token
        for token in self._finish():
            yield token

    def _finish(self) -> Iterator[Token]:
        """What was held back, and the end of the model, with what the upstream has counted."""
        completion_tokens, prompt_tokens = (
            self.usage.get("completion_tokens"),
            self.usage.get("prompt_tokens"),
        )
        if self.pending is not None:
            finish_reason = self.finish_reason if self.finish_reason == "length" else None
            yield replace(
                self.pending,
                finish_reason=finish_reason,
                generated_tokens=completion_tokens,
                prompt_tokens=prompt_tokens,
            )
        if self.function_call is not None:
            yield Token(UNKNOWN_TOKEN_ID, self.function_call.to_text())
        if self.finish_reason == "eos_token" or (
            self.finish_reason is not None and self.pending is None
        ):
            end = Token(UNKNOWN_TOKEN_ID, "", special=True, finish_reason=self.finish_reason)
            yield replace(end, generated_tokens=completion_tokens, prompt_tokens=prompt_tokens)

    def _parse_choice(self, choice: JSON) -> Token | None:
        delta = choice.get("delta") or {}
        for call in delta.get("tool_calls") or ():
            self.function_call = self.function_call or _PartialFunctionCall()
            function = call.get("function") or {}
            self.function_call.name += function.get("name") or ""
            self.function_call.arguments += function.get("arguments") or ""
        text = cut_at_stop(
            choice.get("text") or delta.get("content") or "", self.recent_text, self.stop
        )
        if not text:
            return None
        self.recent_text = (self.recent_text + text)[-STOP_WINDOW:]
        logprob, top = _parse_logprobs(choice.get("logprobs") or {})
        prompt_tokens = self.usage.get("prompt_tokens")
        return Token(UNKNOWN_TOKEN_ID, text, logprob, top_tokens=top, prompt_tokens=prompt_tokens)


def _parse_logprobs(logprobs: JSON) -> tuple[float | None, tuple[Token, ...]]:
    """Of a chunk with one token, in the completions' or the chat's form; else unknown."""
    content = logprobs.get("content")
    if content and len(content) == 1:
        top = content[0].get("top_logprobs") or ()
        others = tuple(Token(UNKNOWN_TOKEN_ID, one["token"], one["logprob"]) for one in top)
        return content[0].get("logprob"), others
    values = logprobs.get("token_logprobs")
    if values and len(values) == 1:
        top_logprobs = (logprobs.get("top_logprobs") or [{}])[0] or {}
        return values[0], tuple(
            Token(UNKNOWN_TOKEN_ID, text, value) for text, value in top_logprobs.items()
        )
    return None, ()


def cut_at_stop(text: str, before: str, stop: Sequence[str]) -> str:
    """`text` up to the first end of a stop string in `seen` + `text`: chunks hold many tokens."""
    whole = before + text
    for end in range(len(before) + 1, len(whole) + 1):
        if stop and whole[:end].endswith(tuple(stop)):
            return whole[len(before) : end]
    return text
